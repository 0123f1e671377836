// Sixteen tokens of a small vocabulary side by side: their logits lie along the lanes, so no sum goes across them.
#pragma once

#include "scratch.h"
#include "transpose.h"
#include "vocabulary.h"

namespace pfk::cpu {
namespace {

// scores() is [k][token]. A token's numbers do not depend on those of the others.
template <class T, class A> class TokenLanes {
  public:
    explicit TokenLanes(int64_t size)
        : size_(size), scratch_(kLanes * size * static_cast<int64_t>(sizeof(A)) + 64),
          scores_(scratch_.template take<A>(kLanes * size)) {
        for (int64_t i = 0; i < kLanes * size; ++i)
            scores_[i] = A(0);
    }

    A* scores() { return scores_; }
    A& at(int64_t symbol, int64_t token) { return scores_[symbol * kLanes + token]; }

    // Logits of n tokens; what stands in the lanes behind them is of no account.
    void read(const T* const* logits, int64_t n) {
        const int64_t whole = size_ % kLanes <= kBeside ? size_ / kLanes * kLanes : size_;
        transpose_rows<A>([=](int64_t l) { return logits[l]; }, n, n, whole, scores_, kLanes);
        for (int64_t k = whole; k < size_; ++k)
            for (int64_t l = 0; l < n; ++l)
                scores_[k * kLanes + l] = load<A>(logits[l][k]);
    }

    void maxima(A* most_of) const {
        using Part = typename RegisterOf<A>::Type;
        constexpr int64_t width = RegisterOf<A>::lanes, parts = kLanes / width;
        const int64_t size = size_;
        const auto at = [&](int64_t k, int64_t p) {
            return *reinterpret_cast<const Part*>(scores_ + k * kLanes + p * width);
        };
        Part most[parts];
        for (int64_t p = 0; p < parts; ++p) {
            Part first = Part{} + kNever<A>, other = first; // two, which do not wait for each other
            int64_t k = 0;
            for (; k + 1 < size; k += 2) {
                first = at(k, p) > first ? at(k, p) : first;
                other = at(k + 1, p) > other ? at(k + 1, p) : other;
            }
            if (k < size)
                first = at(k, p) > first ? at(k, p) : first;
            most[p] = other > first ? other : first;
        }
        __builtin_memcpy(most_of, most, sizeof(most));
    }

    // scores become exp((score - most) inverse).
    void exponentiate(const A* most, A inverse) {
        A* const __restrict e = scores_;
        A shift[kLanes];
        for (int64_t l = 0; l < kLanes; ++l)
            shift[l] = level(most[l]);
        for (int64_t k = 0; k < size_; ++k)
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l)
                e[k * kLanes + l] = exp_falling((e[k * kLanes + l] - shift[l]) * inverse);
    }

    // Their sums over [first, end).
    void sum(int64_t first, int64_t end, A* sums) const {
        using Part = typename RegisterOf<A>::Type;
        constexpr int64_t width = RegisterOf<A>::lanes, parts = kLanes / width;
        Part part[parts] = {};
        for (int64_t k = first; k < end; ++k)
            for (int64_t p = 0; p < parts; ++p)
                part[p] += *reinterpret_cast<const Part*>(scores_ + k * kLanes + p * width);
        __builtin_memcpy(sums, part, sizeof(part));
    }

  private:
    static constexpr int64_t kBeside = 4; // columns beside whole blocks that are cheaper one by one

    const int64_t size_;
    Scratch scratch_;
    A* const scores_;
};

// Of kLanes tokens, each with a row of lanes, what `fold` makes of these.
template <class A, class Fold> void across(const A (*lanes)[kLanes], A* folded, const Fold& fold) {
    alignas(64) A turned[kLanes][kLanes];
    transpose<A>(lanes[0], kLanes, kLanes, kLanes, turned[0], kLanes);
    copy(turned[0], folded, kLanes);
    for (int64_t i = 1; i < kLanes; ++i)
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l)
            folded[l] = fold(folded[l], turned[i][l]);
}

} // namespace
} // namespace pfk::cpu
