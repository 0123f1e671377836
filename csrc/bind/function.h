// From an op in C++ to what module.cpp makes a Python function of: a plain function that reads its arguments by their
// places and gives its results back. No file but module.cpp and what it includes knows Python.
#pragma once

#include <array>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensor.h"

namespace pfk::bind {

template <size_t N> using Outputs = std::array<Tensor, N>;

// Outputs whose last one is a list of tensors.
template <size_t N> struct OutputsAndList {
    Outputs<N> first;
    Tensors list;
};

// The last argument of an op that can write over its first input; it may be left out.
struct Inplace {
    bool wanted = false;
};

// One call as it comes from Python: arguments by place, and a way back for the results.
struct Call : Frame {
    virtual Tensor tensor(size_t place) = 0;
    virtual Tensors tensors(size_t place) = 0;
    virtual Indices indices(size_t place) = 0;
    virtual Numbers numbers(size_t place) = 0;
    virtual std::vector<int64_t> integers(size_t place) = 0;
    virtual int64_t integer(size_t place, int64_t least, int64_t most) = 0;
    virtual double number(size_t place) = 0;
    virtual bool flag(size_t place) = 0; // false where the call has no such argument
    virtual void give(const Tensor* outputs, size_t count, const Tensors* list) = 0;

  protected:
    ~Call() = default;
};

template <class T> std::decay_t<T> read(Call& call, size_t place) {
    using Value = std::decay_t<T>;
    if constexpr (std::is_same_v<Value, Tensor>)
        return call.tensor(place);
    else if constexpr (std::is_same_v<Value, Tensors>)
        return call.tensors(place);
    else if constexpr (std::is_same_v<Value, Indices>)
        return call.indices(place);
    else if constexpr (std::is_same_v<Value, Numbers>)
        return call.numbers(place);
    else if constexpr (std::is_same_v<Value, std::vector<int64_t>>)
        return call.integers(place);
    else if constexpr (std::is_same_v<Value, Inplace>)
        return {call.flag(place)};
    else if constexpr (std::is_same_v<Value, bool>)
        return call.flag(place);
    else if constexpr (std::is_same_v<Value, double>)
        return call.number(place);
    else
        return static_cast<Value>(
            call.integer(place, std::numeric_limits<Value>::min(), std::numeric_limits<Value>::max()));
}

template <size_t N> void give(Call& call, const Outputs<N>& outputs) { call.give(outputs.data(), N, nullptr); }
template <size_t N> void give(Call& call, const OutputsAndList<N>& outputs) {
    call.give(outputs.first.data(), N, &outputs.list);
}

template <auto Op> struct Callable;
template <class Result, class... Args, Result (*Op)(Frame&, Args...)> struct Callable<Op> {
    static constexpr size_t most = sizeof...(Args), least = most - (std::is_same_v<Args, Inplace> + ... + 0);
    static void run(Call& call) { run(call, std::index_sequence_for<Args...>()); }

  private:
    template <size_t... Places> static void run(Call& call, std::index_sequence<Places...>) {
        give(call, Op(call, read<Args>(call, Places)...));
    }
};

struct Function {
    const char* name;
    void (*run)(Call&);
    size_t least, most; // arguments
};

// What expose_<op> adds its functions to.
class Module {
  public:
    template <auto Op> void add(const char* name) {
        functions.push_back({name, Callable<Op>::run, Callable<Op>::least, Callable<Op>::most});
    }
    std::vector<Function> functions;
};

} // namespace pfk::bind
