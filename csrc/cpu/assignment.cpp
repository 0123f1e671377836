// assignment on the CPU. Compiled once per instruction set.

#include "../math/assignment.h"
#include "shortest_paths.h"

namespace pfk::cpu {
namespace {

template <class Costs> void solve(const Costs& costs, double* prices, int64_t* columns) {
    Scratch scratch(ShortestPaths<Costs>::bytes(costs.size));
    ShortestPaths<Costs>(costs, prices, columns, scratch).solve();
}

template <class Costs> void finish(const Assignment& p, int64_t problem, const Costs& costs, const double* prices) {
    const int64_t first = problem * p.size;
    double total = 0;
    for (int64_t i = 0; i < p.size; ++i) {
        const int64_t j = p.columns[first + i];
        const double cost = costs.entry(i, j);
        total += cost;
        p.row_prices[first + i] = cost - prices[j];
        p.column_prices[first + i] = prices[i];
    }
    p.total[problem] = total;
}

void give_up(const Assignment& p, int64_t problem) {
    for (int64_t i = 0; i < p.size; ++i) {
        const int64_t at = problem * p.size + i;
        p.columns[at] = i;
        p.row_prices[at] = p.column_prices[at] = __builtin_nan("");
    }
    p.total[problem] = __builtin_nan("");
}

inline double wide(double value) { return value; }
template <class T> double wide(const T& value) { return static_cast<double>(load<float>(value)); }

// Reads `count` numbers, and whether none is larger than `limit`, infinite or NaN.
template <class T> bool read(const T* from, int64_t count, double limit, double* to) {
    int64_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
        to[i] = wide(from[i]);
        bad += !(__builtin_fabs(to[i]) <= limit);
    }
    return bad == 0;
}

template <class T> void with_costs(const Assignment& p, int64_t problem, double* prices) {
    const int64_t n = p.size, ld = padded(n);
    const T* given = static_cast<const T*>(p.x0) + problem * p.x0_stride;
    Scratch scratch(n * ld * 8);
    double* costs = scratch.take<double>(n * ld);
    for (int64_t i = 0; i < n; ++i) {
        if (!read(given + i * n, n, kLargestCost, costs + i * ld))
            return give_up(p, problem);
        for (int64_t j = n; j < ld; ++j)
            costs[i * ld + j] = kInfinity;
    }
    const DenseCosts dense{n, ld, costs};
    solve(dense, prices, p.columns + problem * n);
    finish(p, problem, dense, prices);
}

template <class T> void with_points(const Assignment& p, int64_t problem, double* prices) {
    const int64_t n = p.size, ld = padded(n), dims = p.dims < 2 ? 2 : p.dims;
    const T *x0 = static_cast<const T*>(p.x0) + problem * p.x0_stride,
            *x1 = static_cast<const T*>(p.x1) + problem * p.x1_stride;
    const bool plane = dims == 2;
    Scratch scratch(((n + ld + 1) * dims + ld + (plane ? 0 : n * ld)) * 8 + 64 * 5);
    double *x = scratch.take<double>(n * dims), *y = scratch.take<double>(dims * ld),
           *point = scratch.take<double>(dims);
    const double limit = __builtin_sqrt(kLargestCost / static_cast<double>(4 * dims));
    for (int64_t i = 0; i < n; ++i) {
        x[i * dims + 1] = point[1] = 0; // the second coordinate of points on a line
        if (!read(x0 + i * p.dims, p.dims, limit, x + i * dims) || !read(x1 + i * p.dims, p.dims, limit, point))
            return give_up(p, problem);
        for (int64_t d = 0; d < dims; ++d)
            y[d * ld + i] = point[d];
    }
    for (int64_t d = 0; d < dims; ++d)
        for (int64_t j = n; j < ld; ++j)
            y[d * ld + j] = kInfinity;
    int64_t* const columns = p.columns + problem * n;
    if (plane) {
        const PlaneCosts costs{n, ld, x, y};
        solve(costs, prices, columns);
        return finish(p, problem, costs, prices);
    }
    double* made = scratch.take<double>(n * ld);
    const SpaceCosts space{n, ld, dims, x, y, made};
    for (int64_t i = 0; i < n; ++i)
        space.fill(i, made + i * ld);
    const DenseCosts costs{n, ld, made};
    solve(costs, prices, columns);
    finish(p, problem, costs, prices);
}

} // namespace

namespace PFK_ISA {

void assignment(const Assignment& p, int64_t begin, int64_t end) {
    Scratch scratch(padded(p.size) * 8);
    double* const prices = scratch.take<double>(padded(p.size));
    with_types(p.type, [&](auto type, auto) {
        using T = decltype(type);
        for (int64_t problem = begin; problem < end; ++problem)
            p.dims > 0 ? with_points<T>(p, problem, prices) : with_costs<T>(p, problem, prices);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
