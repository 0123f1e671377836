// Any stretch of rows and columns of a packed matrix (gemm.h) against a panel (rows, n), and of its transpose.
#pragma once

#include "gemm.h"

namespace pfk::cpu {
namespace {

template <int V> struct Registers {
    static constexpr int value = V;
};

// Calls body(registers wide, w, row, rows, column) for the blocks of rows from..to, whatever the groups they lie in,
// and n columns; w points at the block's element of column `first` of the matrix.
template <class A, class Body>
inline __attribute__((always_inline)) void for_blocks(const A* packed, int64_t depth, int64_t from, int64_t to,
                                                      int64_t first, int64_t n, Body body) {
    for (int64_t row = from; row < to;) {
        const int64_t inside = row % kGemmRows, left = kGemmRows - inside;
        const int64_t rows = to - row < left ? to - row : left;
        const A* w = packed + (row - inside) * depth + first * kGemmRows + inside;
        int64_t at = 0;
        for (; at + kGemmWidth<A> <= n; at += kGemmWidth<A>)
            body(Registers<kTileVectors>{}, w, row, rows, at);
        for (; kTileVectors > 2 && at + 2 * kGemmVector<A> <= n; at += 2 * kGemmVector<A>)
            body(Registers<2>{}, w, row, rows, at);
        for (; at < n; at += kGemmVector<A>)
            body(Registers<1>{}, w, row, rows, at);
        row += rows;
    }
}

// As many groups of rows against one column, a group in the lanes of a vector: the same sums, in the same order.
constexpr int64_t kGroupLanes = 8; // of which kGemmRows count
template <class A> struct Group {
    typedef A Type __attribute__((vector_size(kGroupLanes * sizeof(A)), aligned(sizeof(A)), may_alias));
};

template <int Groups, class A>
inline __attribute__((always_inline)) void add_groups(const A* packed, int64_t stride, int64_t count, const A* x,
                                                      int64_t n, A* sums) {
    using Lanes = typename Group<A>::Type;
    Lanes sum[Groups];
    const A* w[Groups];
    for (int g = 0; g < Groups; ++g) { // those that are too many repeat the last one
        w[g] = packed + (g < count ? g : count - 1) * stride;
        sum[g] = *reinterpret_cast<const Lanes*>(sums + (g < count ? g : count - 1) * kGroupLanes);
    }
    for (int64_t k = 0; k + 1 < n; ++k)
        for (int g = 0; g < Groups; ++g)
            sum[g] += *reinterpret_cast<const Lanes*>(w[g] + k * kGemmRows) * x[k];
    for (int g = 0; g < Groups && g < count; ++g) { // nothing lies behind the last group's last column
        Lanes last{};
        __builtin_memcpy(&last, w[g] + (n - 1) * kGemmRows, kGemmRows * sizeof(A));
        *reinterpret_cast<Lanes*>(sums + g * kGroupLanes) = sum[g] + last * x[n - 1];
    }
}

template <class A>
void add_product_of_one(const A* packed, int64_t depth, int64_t from, int64_t to, int64_t first, int64_t last,
                        const A* x, A* y) {
    constexpr int64_t most = 12;
    alignas(64) A sums[most * kGroupLanes];
    for (int64_t group = from / kGemmRows; group * kGemmRows < to; group += most) {
        const int64_t left = (to + kGemmRows - 1) / kGemmRows - group, count = left < most ? left : most;
        const int64_t begin = group * kGemmRows, low = from > begin ? from - begin : 0,
                      high = (to - begin < count * kGemmRows ? to - begin : count * kGemmRows);
        for (int64_t i = 0; i < count * kGroupLanes; ++i)
            sums[i] = A(0);
        for (int64_t row = low; row < high; ++row)
            sums[row / kGemmRows * kGroupLanes + row % kGemmRows] = y[begin + row];
        const A* const w = packed + begin * depth + first * kGemmRows;
        const int64_t stride = depth * kGemmRows;
        if (count <= 2)
            add_groups<2>(w, stride, count, x + first, last - first, sums);
        else if (count <= 6)
            add_groups<6>(w, stride, count, x + first, last - first, sums);
        else
            add_groups<most>(w, stride, count, x + first, last - first, sums);
        for (int64_t row = low; row < high; ++row)
            y[begin + row] = sums[row / kGemmRows * kGroupLanes + row % kGemmRows];
    }
}

// y[rows from..to) += w[., first..last) x[first..last).
template <class A>
void add_product(const A* packed, int64_t depth, int64_t from, int64_t to, int64_t first, int64_t last, const A* x,
                 A* y, int64_t n) {
    if (last <= first)
        return;
    if (n == 1)
        return add_product_of_one(packed, depth, from, to, first, last, x, y);
    for_blocks(packed, depth, from, to, first, n, [&](auto wide, const A* w, int64_t row, int64_t rows, int64_t at) {
        gemm_detail::block<decltype(wide)::value, true>(Packed<A>{w}, x + first * n + at, n, y + row * n + at, n, rows,
                                                        last - first);
    });
}

// x[first..last) += w[from..to, first..last)^t y[from..to): R rows and V registers at a time.
template <int R, int V, class A>
inline __attribute__((always_inline)) void spread(const A* packed, const A* y, A* x, int64_t n, int64_t columns) {
    using Vec = typename Vector<A>::Type;
    constexpr int64_t step = kGemmVector<A>;
    Vec delta[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            delta[r][v] = *reinterpret_cast<const Vec*>(y + r * n + v * step);
    for (int64_t c = 0; c < columns; ++c, packed += kGemmRows, x += n) {
        Vec sum[V];
        for (int v = 0; v < V; ++v)
            sum[v] = *reinterpret_cast<const Vec*>(x + v * step);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                sum[v] += packed[r] * delta[r][v];
        for (int v = 0; v < V; ++v)
            *reinterpret_cast<Vec*>(x + v * step) = sum[v];
    }
}

template <int V, class A> void spread_rows(const A* packed, const A* y, A* x, int64_t n, int64_t rows, int64_t k) {
    switch (rows) {
    case 1:
        return spread<1, V>(packed, y, x, n, k);
    case 2:
        return spread<2, V>(packed, y, x, n, k);
    case 3:
        return spread<3, V>(packed, y, x, n, k);
    case 4:
        return spread<4, V>(packed, y, x, n, k);
    case 5:
        return spread<5, V>(packed, y, x, n, k);
    default:
        return spread<6, V>(packed, y, x, n, k);
    }
}

template <class A>
void add_transposed(const A* packed, int64_t depth, int64_t from, int64_t to, int64_t first, int64_t last, const A* y,
                    A* x, int64_t n) {
    if (last <= first)
        return;
    for_blocks(packed, depth, from, to, first, n, [&](auto wide, const A* w, int64_t row, int64_t rows, int64_t at) {
        spread_rows<decltype(wide)::value>(w, y + row * n + at, x + first * n + at, n, rows, last - first);
    });
}

} // namespace
} // namespace pfk::cpu
