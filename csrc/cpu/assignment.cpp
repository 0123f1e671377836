// assignment on the CPU. Compiled once per instruction set.

#include "../math/assignment.h"
#include "auction.h"
#include "line.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kSmall = 512;   // rows up to which every column is always looked at
constexpr int64_t kSample = 4;    // of so many rows one is in the sample whose prices the others begin with
constexpr int64_t kStored = 2048; // rows up to which costs that are dear to make are kept for shortest paths

template <class Costs> void solve_by_paths(const Costs& costs, double* prices, int64_t* columns) {
    Scratch scratch(ShortestPaths<Costs>::bytes(costs.size));
    ShortestPaths<Costs>(costs, prices, columns, scratch).solve();
}

template <class T> void solve_by_paths(const SpaceCosts<T>& costs, double* prices, int64_t* columns) {
    if (costs.size > kStored) {
        Scratch scratch(ShortestPaths<SpaceCosts<T>>::bytes(costs.size));
        return ShortestPaths<SpaceCosts<T>>(costs, prices, columns, scratch).solve();
    }
    Scratch scratch(costs.size * costs.ld * 8);
    solve_by_paths(costs.whole(scratch.take<double>(costs.size * costs.ld)), prices, columns);
}

template <class Costs> void solve(const Costs& costs, double* prices, int64_t* columns);

// Prices at which the rows of a sample are as content as they are with the solution of the sample.
template <class Costs> void begin_from_sample(const Costs& costs, double* prices) {
    const int64_t n = costs.size, m = n / kSample;
    Scratch scratch(Costs::sample_bytes(costs, m) + (m * 2 + padded(m) + kTogether * costs.ld) * 8 + 320);
    int64_t* const picked = scratch.take<int64_t>(m);
    for (int64_t i = 0; i < m; ++i) // one of each kSample, whatever order they come in
        picked[i] = i * kSample + static_cast<int64_t>((static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u) >> 62);
    const Costs sample = costs.sample(picked, m, scratch);
    int64_t* const columns = scratch.take<int64_t>(m);
    double* const sample_prices = scratch.take<double>(padded(m));
    solve(sample, sample_prices, columns);
    for (int64_t j = 0; j < costs.ld; ++j)
        prices[j] = kInfinity;
    const auto make_content = [&](int64_t i, const auto& row) {
        const double content = sample.entry(i, columns[i]) - sample_prices[columns[i]];
        for (int64_t j = 0; j < costs.ld; j += kDoubles) {
            const Doubles price = row.at(j) - content, known = doubles_at(prices + j);
            doubles_at(prices + j) = price < known ? price : known;
        }
    };
    int64_t i = 0;
    if constexpr (Costs::kBounded) {
        double* const rows = scratch.take<double>(kTogether * costs.ld);
        for (; i + kTogether <= m; i += kTogether) {
            costs.template bounds<kTogether>(picked + i, rows);
            for (int64_t r = 0; r < kTogether; ++r)
                make_content(i + r, CostRow{rows + r * costs.ld});
        }
    }
    for (; i < m; ++i)
        make_content(i, costs.row(picked[i]));
    for (int64_t j = n; j < costs.ld; ++j)
        prices[j] = -kInfinity; // so that no bound makes a column of them
}

template <class Costs> void solve(const Costs& costs, double* prices, int64_t* columns) {
    if (costs.size > kSmall) {
        begin_from_sample(costs, prices);
        Scratch scratch(Auction<Costs>::bytes(costs.size));
        if (Auction<Costs>(costs, prices, columns, scratch).solve())
            return;
    }
    solve_by_paths(costs, prices, columns);
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

// What holds every bit of a T.
template <class T> struct KeptAs {
    using type = float;
};
template <> struct KeptAs<double> {
    using type = double;
};

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
    using Kept = typename KeptAs<T>::type;
    const int64_t n = p.size, ld = padded(n), dims = p.dims;
    const T *x0 = static_cast<const T*>(p.x0) + problem * p.x0_stride,
            *x1 = static_cast<const T*>(p.x1) + problem * p.x1_stride;
    Scratch scratch(n * dims * 16 + 128 + (dims > 2 ? SpaceCosts<Kept>::bytes(dims, n) : 16 * ld));
    double *x = scratch.take<double>(n * dims), *y = scratch.take<double>(n * dims);
    const double limit = __builtin_sqrt(kLargestCost / static_cast<double>(4 * dims));
    if (!read(x0, n * dims, limit, x) || !read(x1, n * dims, limit, y))
        return give_up(p, problem);
    int64_t* const columns = p.columns + problem * n;
    const auto run = [&](const auto& costs) {
        solve(costs, prices, columns);
        finish(p, problem, costs, prices);
    };
    if (dims == 1) {
        solve_line({x, y}, n, prices, columns);
        return finish(p, problem, LineCosts{x, y}, prices);
    }
    if (dims > 2)
        return run(SpaceCosts<Kept>::of(n, dims, x, y, scratch));
    double* const turned = scratch.take<double>(2 * ld);
    for (int64_t d = 0; d < 2; ++d)
        for (int64_t j = 0; j < ld; ++j)
            turned[d * ld + j] = j < n ? y[2 * j + d] : kInfinity;
    run(PlaneCosts{n, ld, x, turned});
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
