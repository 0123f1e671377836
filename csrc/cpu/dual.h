// Products of matrices of dual numbers, c = a b with its tangent dc = a db + da b, in one pass: rows of a are read for
// b and for db, and no sum leaves the registers before it is whole. Included once per instruction set, like gemm.h.
#pragma once

#include "gemm.h"

namespace pfk::cpu {
namespace {

// Where values and their tangents lie, alike.
template <class X> struct Dual {
    X value, tangent;
};
template <class X> Dual<X*> operator+(Dual<X*> x, int64_t n) { return {x.value + n, x.tangent + n}; }

namespace dual_detail {

constexpr int kVectors = kTileVectors / 2; // of each result: both fill the registers that a tile of gemm.h fills

template <int R, int V, bool Add, class W, class A>
inline __attribute__((always_inline)) void micro(Dual<W> a, Dual<const A*> b, int64_t ldb, Dual<A*> c, int64_t ldc,
                                                 int64_t k) {
    using Vec = typename Vector<A>::Type;
    constexpr int64_t step = kGemmVector<A>;
    Vec sum[R][V], slope[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            sum[r][v] = Add ? *reinterpret_cast<const Vec*>(c.value + r * ldc + v * step) : Vec{};
            slope[r][v] = Add ? *reinterpret_cast<const Vec*>(c.tangent + r * ldc + v * step) : Vec{};
        }
    for (int64_t j = 0; j < k; ++j, a.value.next(), a.tangent.next(), b.value += ldb, b.tangent += ldb) {
        Vec column[V], moved[V];
        for (int v = 0; v < V; ++v) {
            column[v] = *reinterpret_cast<const Vec*>(b.value + v * step);
            moved[v] = *reinterpret_cast<const Vec*>(b.tangent + v * step);
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) {
                sum[r][v] += a.value[r] * column[v];
                slope[r][v] += a.value[r] * moved[v];
                slope[r][v] += a.tangent[r] * column[v];
            }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            *reinterpret_cast<Vec*>(c.value + r * ldc + v * step) = sum[r][v];
            *reinterpret_cast<Vec*>(c.tangent + r * ldc + v * step) = slope[r][v];
        }
}

// R rows at a time from `row` on; returns the first that is left over.
template <int R, int V, bool Add, class W, class A>
int64_t stripes(int64_t row, Dual<W> a, Dual<const A*> b, int64_t ldb, Dual<A*> c, int64_t ldc, int64_t m, int64_t k) {
    for (; row + R <= m; row += R)
        micro<R, V, Add>(Dual<W>{a.value.from(row, 0, k), a.tangent.from(row, 0, k)}, b, ldb, c + row * ldc, ldc, k);
    return row;
}

template <int V, bool Add, class W, class A>
void columns(Dual<W> a, Dual<const A*> b, int64_t ldb, Dual<A*> c, int64_t ldc, int64_t m, int64_t k) {
    int64_t row = stripes<kGemmRows, V, Add>(0, a, b, ldb, c, ldc, m, k);
    row = stripes<4, V, Add>(row, a, b, ldb, c, ldc, m, k);
    row = stripes<2, V, Add>(row, a, b, ldb, c, ldc, m, k);
    stripes<1, V, Add>(row, a, b, ldb, c, ldc, m, k);
}

} // namespace dual_detail

// c (M, N) = or += a (M, K) b (K, N), N a multiple of a register's numbers: an element's sums are the same whatever
// stands beside it.
template <bool Add, class W, class A>
void dual_product(Dual<W> a, Dual<const A*> b, int64_t ldb, Dual<A*> c, int64_t ldc, int64_t m, int64_t k, int64_t n) {
    using namespace dual_detail;
    constexpr int64_t step = kGemmVector<A>, wide = kVectors * step;
    int64_t at = 0;
    for (; at + wide <= n; at += wide)
        columns<kVectors, Add>(a, b + at, ldb, c + at, ldc, m, k);
    for (; at < n; at += step)
        columns<1, Add>(a, b + at, ldb, c + at, ldc, m, k);
}

} // namespace
} // namespace pfk::cpu
