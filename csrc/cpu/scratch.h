// Memory of one worker, whose pieces begin at cache lines; std::bad_alloc where there is none.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace pfk::cpu {
namespace {

class Scratch {
  public:
    explicit Scratch(int64_t bytes) : data_(static_cast<char*>(std::malloc(static_cast<size_t>(bytes) + 64))) {
        if (data_ == nullptr)
            throw std::bad_alloc();
        next_ = data_ + (64 - reinterpret_cast<uintptr_t>(data_) % 64);
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    template <class A> A* take(int64_t count) {
        A* const piece = reinterpret_cast<A*>(next_);
        next_ += (count * static_cast<int64_t>(sizeof(A)) + 63) / 64 * 64;
        return piece;
    }

  private:
    char *data_, *next_;
};

} // namespace
} // namespace pfk::cpu
