// Sums over samples, which lie along the rows of a panel: of a row, and of products of rows, a matrix's gradient.
#pragma once

#include "gemm.h"

namespace pfk::cpu {
namespace {

template <int Bytes> struct IntOf;
template <> struct IntOf<4> {
    using Type = int32_t;
};
template <> struct IntOf<8> {
    using Type = int64_t;
};

// sums[i] = sum of the lanes of v[i], for as many vectors as a vector has lanes.
template <class A>
inline __attribute__((always_inline)) typename Vector<A>::Type lane_sums(typename Vector<A>::Type* v) {
    constexpr int64_t lanes = kGemmVector<A>;
    typedef typename IntOf<sizeof(A)>::Type Index __attribute__((vector_size(kVectorBytes)));
    Index even, odd;
    for (int64_t i = 0; i < lanes; ++i) {
        even[i] = static_cast<typename IntOf<sizeof(A)>::Type>(2 * i);
        odd[i] = static_cast<typename IntOf<sizeof(A)>::Type>(2 * i + 1);
    }
    for (int64_t count = lanes / 2; count > 0; count /= 2)
        for (int64_t i = 0; i < count; ++i)
            v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) + __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
    return v[0];
}

constexpr int64_t kOuterRows = 4, kOuterColumns = 2;

// dw (M, N) += g (M, C) x^T for x (N, C), C a multiple of 16: every element a dot product of two rows.
template <class A>
void add_outer(const A* g, int64_t ldg, const A* x, int64_t ldx, A* dw, int64_t m, int64_t n, int64_t columns) {
    using Vec = typename Vector<A>::Type;
    constexpr int64_t step = kGemmVector<A>, block = kOuterRows * kOuterColumns;
    constexpr int64_t padded = (block + step - 1) / step * step;
    for (int64_t row = 0; row < m; row += kOuterRows) {
        const A* gs[kOuterRows];
        for (int64_t r = 0; r < kOuterRows; ++r)
            gs[r] = g + (row + r < m ? row + r : m - 1) * ldg;
        for (int64_t column = 0; column < n; column += kOuterColumns) {
            const A *x0 = x + column * ldx, *x1 = x + (column + 1 < n ? column + 1 : column) * ldx;
            Vec sum[padded] = {};
            for (int64_t i = 0; i < columns; i += step) {
                const Vec left = *reinterpret_cast<const Vec*>(x0 + i), right = *reinterpret_cast<const Vec*>(x1 + i);
                for (int64_t r = 0; r < kOuterRows; ++r) {
                    const Vec across = *reinterpret_cast<const Vec*>(gs[r] + i);
                    sum[2 * r] += across * left;
                    sum[2 * r + 1] += across * right;
                }
            }
            alignas(64) A totals[padded];
            for (int64_t i = 0; i < padded; i += step)
                *reinterpret_cast<Vec*>(totals + i) = lane_sums<A>(sum + i);
            for (int64_t r = 0; r < kOuterRows && row + r < m; ++r)
                for (int64_t c = 0; c < kOuterColumns && column + c < n; ++c)
                    dw[(row + r) * n + column + c] += totals[2 * r + c];
        }
    }
}

// Rows of `columns` numbers become columns of kGemmWidth, zeros beside the last: blocks of the size of a cache line.
template <class A> void turn(const A* rows, int64_t ld, int64_t n, int64_t columns, A* turned) {
    constexpr int64_t width = kGemmWidth<A>, block = 64 / static_cast<int64_t>(sizeof(A));
    for (int64_t first = 0; first < columns; first += block)
        for (int64_t r = 0; r < width; ++r)
            for (int64_t c = first; c < first + block && c < columns; ++c)
                turned[c * width + r] = r < n ? rows[r * ld + c] : A(0);
}

// The same through the micro-kernel, for matrices wide enough for its vectors: x is turned, a tile's width at a time,
// so that N lies along them. `turned` has room for (C, kGemmWidth).
template <class A>
void add_product(const A* g, int64_t ldg, const A* x, int64_t ldx, A* dw, int64_t m, int64_t n, int64_t columns,
                 A* turned) {
    constexpr int64_t width = kGemmWidth<A>;
    if (n < width)
        return add_outer(g, ldg, x, ldx, dw, m, n, columns);
    for (int64_t at = 0; at < n; at += width) {
        const int64_t some = n - at < width ? n - at : width;
        turn(x + at * ldx, ldx, some, columns, turned);
        gemm<true>(Rows<A>{g, ldg}, turned, width, dw + at, n, m, columns, some);
    }
}

template <class A> void fill_zero(A* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        values[i] = A(0);
}

template <class A> void add_scaled(A* target, A factor, const A* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        target[i] += factor * values[i];
}

template <class A> A row_total(const A* values, int64_t n) {
    RowSum<A> sum;
    sum.add_lanes(values, n);
    return sum.total();
}

} // namespace
} // namespace pfk::cpu
