// The least of the numbers that a law is cut to: the k largest, or the largest that hold a share, without a sort.
#pragma once

#include "vocabulary.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace pfk::cpu {
namespace {

constexpr int kPivots = 7;       // that are tried in a pass over the numbers: the bracket falls to an eighth
constexpr int64_t kSampled = 16; // of as many groups of lanes one tells where to look first
constexpr int64_t kManyNumbers = 4096;

// The weight of the numbers of at least each pivot, their sum or their count, to `sums`.
template <bool Sum, class A> void weights_above(const A* e, int64_t n, const A* pivots, double* sums) {
    using Part = typename RegisterOf<A>::Type;
    constexpr int64_t width = RegisterOf<A>::lanes;
    for (int j = 0; j < kPivots; ++j)
        sums[j] = 0;
    for (int64_t first = 0; first < n; first += kChunk) {
        const int64_t end = first + kChunk < n ? first + kChunk : n;
        Part part[kPivots] = {};
        for (int64_t i = first; i < end; i += width) {
            const Part here = *reinterpret_cast<const Part*>(e + i), weight = Sum ? here : Part{} + A(1);
#pragma GCC unroll 7
            for (int j = 0; j < kPivots; ++j)
                part[j] += here >= pivots[j] ? weight : Part{};
        }
        for (int j = 0; j < kPivots; ++j) {
            A lanes[width], sum = 0;
            __builtin_memcpy(lanes, &part[j], sizeof(lanes));
#pragma omp simd reduction(+ : sum)
            for (int64_t l = 0; l < width; ++l)
                sum += lanes[l];
            sums[j] += static_cast<double>(sum);
        }
    }
}

// Those of n numbers that lie in [least, limit) go to `some`, and zeros behind them up to a multiple of kLanes, which
// is given. There is room for n, and for a register more.
template <class A> int64_t between(const A* e, int64_t n, A least, A limit, A* some) {
    int64_t left = 0, i = 0;
#ifdef __AVX512F__
    if constexpr (sizeof(A) == 4)
        for (; i < n; i += 16) {
            const __m512 here = _mm512_loadu_ps(e + i);
            const __mmask16 inside = _mm512_mask_cmp_ps_mask(
                _mm512_cmp_ps_mask(here, _mm512_set1_ps(least), _CMP_GE_OQ), here, _mm512_set1_ps(limit), _CMP_LT_OQ);
            _mm512_storeu_ps(some + left, _mm512_maskz_compress_ps(inside, here));
            left += __builtin_popcount(inside);
        }
#endif
    for (; i < n; ++i) {
        some[left] = e[i];
        left += e[i] >= least && e[i] < limit;
    }
    for (n = padded(left); left < n; ++left)
        some[left] = A(0);
    return n;
}

// The largest of n numbers of [0, 1], a multiple of kLanes, such that those at least as large weigh `need`: by number
// or by sum. `some` has room for n and a register. Bits are bracketed: of numbers of [0, 1] they are in order.
template <bool Sum, class A> A threshold(const A* e, int64_t n, double need, A* some) {
    using Int = typename detail::Real<A>::Int;
    constexpr Int kOctave = Int(1) << detail::Real<A>::mantissa_bits;
    Int low = 0, high = detail::bits<Int>(A(1)) + 1, guess = 0;
    double above = 0, beyond = 0; // weight of what was left out; of all that is not below `high`
    const bool many = n >= kManyNumbers;
    if (many) {
        int64_t taken = 0;
        for (int64_t i = 0; i < n; i += kSampled * kLanes, taken += kLanes)
            copy(e + i, some + taken, kLanes);
        const double part = static_cast<double>(taken) / static_cast<double>(n);
        guess = detail::bits<Int>(threshold<Sum>(some, taken, need * part, some + taken));
    }
    for (int pass = 0; high - low > 1; ++pass) {
        Int tried[kPivots];
        A pivots[kPivots];
        double sums[kPivots];
        for (int j = 0; j < kPivots; ++j) {
            constexpr int kNear[kPivots] = {-32, -8, -2, 0, 2, 8, 32}; // sixty-fourths of an octave from the guess
            const Int parts = kPivots + 1, width = high - low;
            tried[j] = many && pass == 0 ? guess + kNear[j] * (kOctave / 64)
                                         : low + width / parts * (j + 1) + width % parts * (j + 1) / parts;
            tried[j] = tried[j] < low ? low : tried[j] >= high ? high - 1 : tried[j];
            pivots[j] = detail::bits<A>(tried[j]);
        }
        weights_above<Sum>(e, n, pivots, sums);
        int j = kPivots;
        while (j > 0 && above + sums[j - 1] < need)
            --j;
        if (j < kPivots)
            high = tried[j], beyond = above + sums[j];
        low = j > 0 ? tried[j - 1] : low;
        if (many && e != some && high - low <= kOctave) { // few are left: the rest is done on them alone
            n = between(e, n, detail::bits<A>(low), detail::bits<A>(high), some);
            e = some, above = beyond;
        }
    }
    return detail::bits<A>(low);
}

} // namespace
} // namespace pfk::cpu
