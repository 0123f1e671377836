// Exact assignment of points on a line by squared distance: both in their order. Included once per instruction set.
#pragma once

#include "scratch.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

struct LineCosts {
    const double *x, *y; // (size,)
    double entry(int64_t i, int64_t j) const { return (x[i] - y[j]) * (x[i] - y[j]); }
};

struct Placed {
    double at;
    int64_t index;
};

// Points in rising order, equal ones as they come; `other` is room for as many.
inline Placed* sorted(const double* points, int64_t size, Placed* placed, Placed* other) {
    for (int64_t i = 0; i < size; ++i)
        placed[i] = {points[i], i};
    for (int64_t run = 1; run < size; run *= 2) {
        for (int64_t begin = 0; begin < size; begin += 2 * run) {
            const int64_t middle = begin + run < size ? begin + run : size;
            const int64_t end = begin + 2 * run < size ? begin + 2 * run : size;
            int64_t left = begin, right = middle;
            for (int64_t k = begin; k < end; ++k)
                other[k] = left < middle && (right == end || placed[left].at <= placed[right].at) ? placed[left++]
                                                                                                  : placed[right++];
        }
        Placed* const merged = other;
        other = placed, placed = merged;
    }
    return placed;
}

// Prices: each row finds the column after its own as cheap, and then no other is cheaper, as distances are convex.
inline void solve_line(const LineCosts& costs, int64_t size, double* prices, int64_t* columns) {
    Scratch scratch(4 * (size * static_cast<int64_t>(sizeof(Placed)) + 64));
    Placed* rooms[4];
    for (Placed*& room : rooms)
        room = scratch.take<Placed>(size);
    const Placed *x = sorted(costs.x, size, rooms[0], rooms[1]), *y = sorted(costs.y, size, rooms[2], rooms[3]);
    double price = 0;
    for (int64_t k = 0; k < size; ++k) {
        if (k > 0)
            price += (y[k].at - y[k - 1].at) * ((y[k].at - x[k - 1].at) + (y[k - 1].at - x[k - 1].at));
        columns[x[k].index] = y[k].index;
        prices[y[k].index] = price;
    }
}

} // namespace
} // namespace pfk::cpu
