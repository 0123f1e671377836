// Products of samples with the matrices of a small network, (sample, unit) everywhere: the left operand lies in memory
// as it is, the right one is packed once a call in panels as wide as a tile of the micro-kernel. Each element is the
// sum over its terms in their order. Included once per instruction set, like gemm.h.
#pragma once

#include "gemm.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kDepth = 128; // of a product at a time: a panel's stretch stays in the first cache

template <class A> constexpr int64_t padded(int64_t n) {
    return (n + kGemmVector<A> - 1) / kGemmVector<A> * kGemmVector<A>;
}

// Calls body(first column, width) for the panels of n columns: as wide as a tile, the last ones one register.
template <class A, class Body> void for_panels(int64_t n, Body body) {
    int64_t at = 0;
    for (; at + kGemmWidth<A> <= padded<A>(n); at += kGemmWidth<A>)
        body(at, kGemmWidth<A>);
    for (; at < n; at += kGemmVector<A>)
        body(at, kGemmVector<A>);
}

// Element (k, j) of the matrix at w[k depth_step + j column_step]; depth * padded(columns) numbers, zeros at the edge.
template <class P, class A>
void pack_panels(const P* w, int64_t depth_step, int64_t column_step, int64_t depth, int64_t columns, A* to) {
    for_panels<A>(columns, [&](int64_t first, int64_t width) {
        for (int64_t k = 0; k < depth; ++k, to += width)
            for (int64_t j = 0; j < width; ++j)
                to[j] = first + j < columns ? load<A>(w[k * depth_step + (first + j) * column_step]) : A(0);
    });
}

struct Untouched {
    template <class A> void operator()(int64_t, int64_t, A*, int64_t) const {}
};

// y (rows, columns, padded) = w panels, or += with Add. done(row, first column, y, n) takes each finished stretch.
template <bool Add, class W, class A, class Done = Untouched>
void multiply_panels(W w, int64_t depth, const A* panels, int64_t columns, A* y, int64_t ldy, int64_t rows,
                     Done done = {}) {
    for (int64_t first = 0; first < depth; first += kDepth) {
        const int64_t stretch = depth - first < kDepth ? depth - first : kDepth;
        const A* panel = panels;
        for_panels<A>(columns, [&](int64_t at, int64_t width) {
            const auto operand = w.from(0, first, depth);
            const A* const part = panel + first * width;
            const auto finished = [&](int64_t row, A* to, int64_t n) {
                if (first + stretch == depth)
                    done(row, at, to, n);
            };
            if (Add || first > 0)
                gemm<true>(operand, part, width, y + at, ldy, rows, stretch, width, finished);
            else
                gemm<false>(operand, part, width, y + at, ldy, rows, stretch, width, finished);
            panel += depth * width;
        });
    }
}

} // namespace
} // namespace pfk::cpu
