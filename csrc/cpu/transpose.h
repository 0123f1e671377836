// Matrices turned in registers, a square block at a time, with the types of both sides. Included once per instruction
// set, like gemm.h.
#pragma once

#include "gemm.h"

namespace pfk::cpu {
namespace {

template <int Bytes> struct LaneOf {
    using Type = int32_t;
};
template <> struct LaneOf<8> {
    using Type = int64_t;
};

// Which lanes of two registers make the two that stand for them once the bit `half` of row and lane have changed
// places.
template <class Lane, int64_t lanes> struct Exchanged {
    Lane low[4][lanes] = {}, high[4][lanes] = {}; // halves, quarters, ... of a register
    constexpr Exchanged() {
        for (int64_t half = lanes / 2, step = 0; half > 0; half /= 2, ++step)
            for (int64_t l = 0; l < lanes; ++l) {
                low[step][l] = static_cast<Lane>((l & half) != 0 ? l - half + lanes : l);
                high[step][l] = static_cast<Lane>((l & half) != 0 ? l + lanes : l + half);
            }
    }
};

// v[i][l] becomes v[l][i], a bit at a time.
template <class A> inline __attribute__((always_inline)) void turn_registers(typename Vector<A>::Type* v) {
    using Lane = typename LaneOf<sizeof(A)>::Type;
    constexpr int64_t lanes = kGemmVector<A>;
    typedef Lane Index __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
    static constexpr Exchanged<Lane, lanes> exchanged;
#pragma GCC unroll 4
    for (int64_t step = 0; step < (lanes == 16 ? 4 : lanes == 8 ? 3 : lanes == 4 ? 2 : 1); ++step) {
        const int64_t half = lanes >> (step + 1);
        const Index low = *reinterpret_cast<const Index*>(exchanged.low[step]);
        const Index high = *reinterpret_cast<const Index*>(exchanged.high[step]);
#pragma GCC unroll 16
        for (int64_t i = 0; i < lanes; ++i)
            if ((i & half) == 0) {
                const auto first = v[i], second = v[i + half];
                v[i] = __builtin_shuffle(first, second, low);
                v[i + half] = __builtin_shuffle(first, second, high);
            }
    }
}

// Some rows of a square block, of n numbers each: in constant steps where that is a register's.
template <class A, class Move>
inline __attribute__((always_inline)) void for_square(int64_t rows, int64_t n, const Move& move) {
    constexpr int64_t lanes = kGemmVector<A>;
    for (int64_t i = 0; i < rows; ++i)
        if (n == lanes)
#pragma omp simd
            for (int64_t l = 0; l < lanes; ++l)
                move(i, l);
        else
            for (int64_t l = 0; l < n; ++l)
                move(i, l);
}

// A whole block of accumulators, which need no stage.
template <class A, class Row, class To>
inline __attribute__((always_inline)) void turn_square(const Row& row, int64_t c, To* to, int64_t ldt, A factor) {
    using Vec = typename Vector<A>::Type;
    constexpr int64_t lanes = kGemmVector<A>;
    Vec v[lanes];
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; ++i)
        v[i] = factor * *reinterpret_cast<const Vec*>(row(i) + c);
    turn_registers<A>(v);
#pragma GCC unroll 16
    for (int64_t i = 0; i < lanes; ++i)
        *reinterpret_cast<Vec*>(to + i * ldt) = v[i];
}

// to[c][r] = factor row(r)[c] for some rows of as many columns, in the arithmetic of A; `to` is touched nowhere else.
// Rows from there to `known` are fetched, if they come next.
template <class A, class Row, class To>
void transpose_rows(const Row& row, int64_t known, int64_t rows, int64_t columns, To* to, int64_t ldt,
                    A factor = A(1)) {
    using Vec = typename Vector<A>::Type;
    constexpr int64_t lanes = kGemmVector<A>;
    for (int64_t r = 0; r < rows; r += lanes)
        for (int64_t c = 0; c < columns; c += lanes) {
            const int64_t height = rows - r < lanes ? rows - r : lanes,
                          width = columns - c < lanes ? columns - c : lanes;
            To* const target = to + c * ldt + r;
            for (int64_t i = lanes; i < 2 * lanes && r + i < known; ++i)
                __builtin_prefetch(row(r + i) + c);
            if (height == lanes && width == lanes && sizeof(*row(0)) == sizeof(A) && sizeof(To) == sizeof(A)) {
                turn_square<A>([&](int64_t i) { return row(r + i); }, c, target, ldt, factor);
                continue;
            }
            alignas(64) A stage[lanes * lanes] = {}; // what stands beside the edge is turned as well, and stays here
            for_square<A>(height, width, [&](int64_t i, int64_t l) __attribute__((always_inline)) {
                stage[i * lanes + l] = factor * load<A>(row(r + i)[c + l]);
            });
            Vec v[lanes];
#pragma GCC unroll 16
            for (int64_t i = 0; i < lanes; ++i)
                v[i] = *reinterpret_cast<const Vec*>(stage + i * lanes);
            turn_registers<A>(v);
#pragma GCC unroll 16
            for (int64_t i = 0; i < lanes; ++i)
                *reinterpret_cast<Vec*>(stage + i * lanes) = v[i];
            for_square<A>(width, height, [&](int64_t i, int64_t l) __attribute__((always_inline)) {
                store(target[i * ldt + l], stage[i * lanes + l]);
            });
        }
}

// The same of a matrix (rows, columns).
template <class A, class From, class To>
void transpose(const From* from, int64_t ld, int64_t rows, int64_t columns, To* to, int64_t ldt, A factor = A(1)) {
    transpose_rows<A>([=](int64_t r) { return from + r * ld; }, rows + kGemmVector<A>, rows, columns, to, ldt, factor);
}

} // namespace
} // namespace pfk::cpu
