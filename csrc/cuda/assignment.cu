// assignment on the GPU: a block a problem, by shortest augmenting paths over rows of costs that are read whole. A
// thread has every kThreads-th column to itself. Squared distances of points are written down first.

#include "../math/assignment.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / warp_size;
constexpr int kNobody = -1;

__device__ double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }

// A column and how far it is; of columns equally far, one that nobody has comes first, then the first.
struct Nearest {
    double at;
    int column; // below 0: one that nobody has, as ~column

    PFK_DEVICE bool before(const Nearest& other) const {
        return at < other.at || (at == other.at && column < other.column);
    }
    PFK_DEVICE static Nearest of(double at, int column, bool taken) { return {at, taken ? column : ~column}; }
};

// The nearest of all threads, in each of them; rooms [2 * kWarps] of shared memory serve in turns, so that a room is
// not written while it may still be read.
PFK_DEVICE Nearest nearest_of_all(Nearest mine, double* ats, int* columns, int& turn) {
#pragma unroll
    for (int step = warp_size / 2; step > 0; step /= 2) {
        const Nearest other{__shfl_xor_sync(full_warp, mine.at, step), __shfl_xor_sync(full_warp, mine.column, step)};
        if (other.before(mine))
            mine = other;
    }
    const int thread = static_cast<int>(threadIdx.x), room = turn * kWarps;
    if (thread % warp_size == 0)
        ats[room + thread / warp_size] = mine.at, columns[room + thread / warp_size] = mine.column;
    __syncthreads();
    mine = {ats[room], columns[room]};
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
        const Nearest other{ats[room + w], columns[room + w]};
        if (other.before(mine))
            mine = other;
    }
    turn ^= 1;
    return mine;
}

template <class T> __global__ void __launch_bounds__(kThreads) distances(const Assignment p) {
    const int64_t n = p.size, at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t problem = at / (n * n), i = at / n % n, j = at % n;
    if (problem >= p.rows)
        return;
    const T* const x = static_cast<const T*>(p.x0) + problem * p.x0_stride + i * p.dims;
    const T* const y = static_cast<const T*>(p.x1) + problem * p.x1_stride + j * p.dims;
    double sum = 0;
    for (int64_t d = 0; d < p.dims; ++d) {
        const double difference = static_cast<double>(widen(y[d])) - static_cast<double>(widen(x[d]));
        sum += difference * difference;
    }
    p.costs[at] = sum;
}

template <class T> __global__ void __launch_bounds__(kThreads) solve(const Assignment p, const T* all, int64_t stride) {
    PFK_SHARED(double, ats, [2 * kWarps]);
    PFK_SHARED(int, nearest_columns, [2 * kWarps]);
    const int n = static_cast<int>(p.size), thread = static_cast<int>(threadIdx.x);
    const int64_t problem = blockIdx.x, first = problem * n;
    const T* const costs = all + problem * stride;
    int64_t* const columns = p.columns + first;
    double *const v = p.column_prices + first, *const distance = p.distances + first;
    int *const owners = p.marks + 3 * first, *const reached_from = owners + n, *const searches = reached_from + n;

    // a column's price is its least cost; the first column of those that are cheapest in a row is the row's
    bool bad = false;
    for (int i = thread; i < n; i += kThreads)
        columns[i] = n;
    __syncthreads();
    for (int j = thread; j < n; j += kThreads) {
        double least = infinity();
        int row = 0;
        for (int i = 0; i < n; ++i) {
            const double cost = static_cast<double>(widen(costs[static_cast<int64_t>(i) * n + j]));
            bad = bad || !(fabs(cost) <= kLargestCost);
            if (cost < least)
                least = cost, row = i;
        }
        v[j] = least, searches[j] = 0, reached_from[j] = row;
        atomicMin(reinterpret_cast<unsigned long long*>(columns + row), static_cast<unsigned long long>(j));
    }
    if (__syncthreads_or(bad)) {
        const double nan = infinity() - infinity();
        for (int i = thread; i < n; i += kThreads)
            columns[i] = i, v[i] = p.row_prices[first + i] = nan;
        if (thread == 0)
            p.total[problem] = nan;
        return;
    }
    for (int j = thread; j < n; j += kThreads)
        owners[j] = columns[reached_from[j]] == j ? reached_from[j] : kNobody;

    int turn = 0;
    for (int start = 0; start < n; ++start) {
        if (columns[start] < n)
            continue;
        const int search = start + 1;
        for (int j = thread; j < n; j += kThreads)
            distance[j] = infinity();
        int row = start, end;
        double offset = 0, reach;
        for (;;) {
            const T* const of_row = costs + static_cast<int64_t>(row) * n;
            Nearest mine{infinity(), n};
            for (int j = thread; j < n; j += kThreads) {
                if (searches[j] == search)
                    continue;
                const double by_row = static_cast<double>(widen(of_row[j])) - v[j] + offset;
                if (by_row < distance[j])
                    distance[j] = by_row, reached_from[j] = row;
                const Nearest other = Nearest::of(distance[j], j, owners[j] != kNobody);
                if (other.before(mine))
                    mine = other;
            }
            mine = nearest_of_all(mine, ats, nearest_columns, turn);
            reach = mine.at;
            if (mine.column < 0) {
                end = ~mine.column;
                break;
            }
            if (mine.column % kThreads == thread)
                searches[mine.column] = search; // its distance stays
            row = owners[mine.column];
            offset = reach -
                     (static_cast<double>(widen(costs[static_cast<int64_t>(row) * n + mine.column])) - v[mine.column]);
        }
        for (int j = thread; j < n; j += kThreads)
            if (searches[j] == search)
                v[j] += distance[j] - reach;
        if (thread == 0)
            for (int j = end;;) { // the rows on the way move on by one column
                const int taker = reached_from[j];
                const int left = static_cast<int>(columns[taker]);
                owners[j] = taker, columns[taker] = j;
                if (taker == start)
                    break;
                j = left;
            }
        __syncthreads();
    }

    double total = 0;
    for (int i = thread; i < n; i += kThreads) {
        const int64_t j = columns[i];
        const double cost = static_cast<double>(widen(costs[static_cast<int64_t>(i) * n + j]));
        p.row_prices[first + i] = cost - v[j];
        total += cost;
    }
    total = block_reduce<kThreads>(total);
    if (thread == 0)
        p.total[problem] = total;
}

template <class T> cudaError_t start(const Assignment& p, const void* costs, int64_t stride, cudaStream_t stream) {
    return launch(solve<T>, static_cast<unsigned>(p.rows), kThreads, 0, stream, p, static_cast<const T*>(costs),
                  stride);
}

} // namespace

Error assignment(const Assignment& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return with_type(p.type, [&](auto type) {
        using T = typename decltype(type)::type;
        if (p.dims == 0)
            return start<T>(p, p.x0, p.x0_stride, on);
        const int64_t elements = p.rows * p.size * p.size;
        const cudaError_t error =
            elements == 0
                ? cudaSuccess
                : launch(distances<T>, static_cast<unsigned>((elements + kThreads - 1) / kThreads), kThreads, 0, on, p);
        return error == cudaSuccess ? start<double>(p, p.costs, p.size * p.size, on) : error;
    });
}

} // namespace pfk::cuda
