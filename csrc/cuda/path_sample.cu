// path_sample on the GPU: a row belongs to a few lanes, a warp or blocks, by its size alone; a lane takes four
// neighbouring elements at a time and makes their noise from the counter.

#include "../math/path_sample.h"
#include "random_numbers.cuh"
#include "rows.cuh"

#include <type_traits>

namespace pfk::cuda {
namespace {

template <class T> PFK_DEVICE const T* at(const void* base, int64_t row, int64_t stride) {
    return static_cast<const T*>(base) + row * stride;
}

template <bool Drawn> PFK_DEVICE uint64_t key_of(const PathSample& p, int64_t row) {
    return Drawn ? static_cast<uint64_t>(p.keys[row]) : 0;
}

// Four elements of a row's noise, as its key makes them or as they are given.
template <bool Drawn, bool Whole, class T, class A>
PFK_DEVICE void read_noise(const PathSample& p, int64_t row, uint64_t key, int64_t group, A* e) {
    const int64_t d = group * kGroup;
    if constexpr (Drawn)
        random_group(Random::Normal, key, group, 0u, e);
    else
        read_group<Whole>(at<T>(p.x0, row, p.x0_stride) + d, p.size - d, e);
}

template <bool Drawn, bool Whole, class T>
__global__ void __launch_bounds__(kThreads) sample(const PathSample p, const Schedule schedule) {
    using A = arithmetic_t<T>;
    const Share share(schedule);
    if (share.row >= p.rows)
        return;
    const auto c = Coefficients<A>::of(p, share.row);
    const uint64_t key = key_of<Drawn>(p, share.row);
    for (int64_t group = share.first; group < share.end; group += schedule.lanes) {
        const int64_t d = group * kGroup, left = p.size - d, out = share.row * p.size + d;
        A data[kGroup], e[kGroup], mixed[kGroup];
        read_group<Whole>(at<T>(p.x1, share.row, p.x1_stride) + d, left, data);
        read_noise<Drawn, Whole, T>(p, share.row, key, group, e);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            mixed[i] = c.mixed(data[i], e[i]);
            e[i] = c.moved(data[i], e[i]);
        }
        write_group<Whole>(static_cast<T*>(p.x_t) + out, left, mixed);
        write_group<Whole>(static_cast<T*>(p.target) + out, left, e);
    }
}

template <bool Drawn, bool Whole, class T>
__global__ void __launch_bounds__(kThreads, Whole ? 0 : 2) differentiate(const PathSample p, const Schedule schedule) {
    using A = arithmetic_t<T>;
    const Share share(schedule);
    A sums[4] = {};
    if (share.row < p.rows) {
        const auto c = Coefficients<A>::of(p, share.row);
        const uint64_t key = key_of<Drawn>(p, share.row);
        for (int64_t group = share.first; group < share.end; group += schedule.lanes) {
            const int64_t d = group * kGroup, left = p.size - d, out = share.row * p.size + d;
            A data[kGroup], e[kGroup], mixed[kGroup], moved[kGroup];
            read_group<Whole>(at<T>(p.x1, share.row, p.x1_stride) + d, left, data);
            read_group<Whole>(at<T>(p.dx_t, share.row, p.dx_t_stride) + d, left, mixed);
            read_group<Whole>(at<T>(p.dtarget, share.row, p.dtarget_stride) + d, left, moved);
            read_noise<Drawn, Whole, T>(p, share.row, key, group, e);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                sums[0] += mixed[i] * data[i];
                sums[1] += mixed[i] * e[i];
                sums[2] += moved[i] * data[i];
                sums[3] += moved[i] * e[i];
                data[i] = c.of_data(mixed[i], moved[i]);
                e[i] = c.of_noise(mixed[i], moved[i]);
            }
            write_group<Whole>(static_cast<T*>(p.dx1) + out, left, data);
            if constexpr (!Drawn)
                write_group<Whole>(static_cast<T*>(p.dx0) + out, left, e);
        }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const A sum = row_sum(sums[k], schedule.lanes);
        if (share.lane == 0 && share.row < p.rows)
            static_cast<A*>(p.dcoefficients[k])[share.row] = sum;
    }
}

// Whether groups of all rows are aligned; what a pass has no use for is null.
bool is_whole(const PathSample& p) {
    bool whole = p.size % kGroup == 0;
    for (const int64_t stride : {p.x1_stride, p.x0_stride, p.dx_t_stride, p.dtarget_stride})
        whole = whole && stride % kGroup == 0;
    for (const void* data : {p.x1, p.x0, p.dx_t, p.dtarget})
        whole = whole && is_aligned(data);
    for (void* data : {p.x_t, p.target, p.dx1, p.dx0})
        whole = whole && is_aligned(data);
    return whole;
}

// kernel(type, drawn, whole) is the kernel for them.
template <class Kernel> cudaError_t start(const PathSample& p, const Schedule& schedule, void* stream, Kernel kernel) {
    if (p.rows == 0)
        return cudaSuccess;
    const auto run = [&](auto chosen) {
        return launch(chosen, schedule.blocks(p.rows), kThreads, 0, static_cast<cudaStream_t>(stream), p, schedule);
    };
    return with_type(p.type, [&](auto type) {
        if (p.x0 == nullptr)
            return run(is_whole(p) ? kernel(type, std::true_type{}, std::true_type{})
                                   : kernel(type, std::true_type{}, std::false_type{}));
        return run(is_whole(p) ? kernel(type, std::false_type{}, std::true_type{})
                               : kernel(type, std::false_type{}, std::false_type{}));
    });
}

} // namespace

Error path_sample(const PathSample& p, void* stream) {
    return start(p, schedule_of(p.size, kGroup), stream, [](auto type, auto drawn, auto whole) {
        return sample<decltype(drawn)::value, decltype(whole)::value, typename decltype(type)::type>;
    });
}

Error path_sample_backward(const PathSample& p, void* stream) {
    return start(p, undivided(p.size, kGroup), stream, [](auto type, auto drawn, auto whole) {
        return differentiate<decltype(drawn)::value, decltype(whole)::value, typename decltype(type)::type>;
    });
}

} // namespace pfk::cuda
