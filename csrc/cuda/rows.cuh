// Who does what where a row belongs to a few lanes, a warp or a block, by its size alone, so that its sum is the same
// in every batch.
#pragma once

#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256;

struct Schedule {
    int64_t units; // of a row
    int lanes;     // a power of two up to a warp, or a whole block

    unsigned blocks(int64_t rows) const {
        const int64_t at_once = kThreads / lanes;
        return static_cast<unsigned>((rows + at_once - 1) / at_once);
    }
};

Schedule schedule_of(int64_t units) {
    if (units > 4 * warp_size)
        return {units, kThreads};
    int lanes = 1;
    while (lanes < units && lanes < warp_size)
        lanes *= 2;
    return {units, lanes};
}

struct Share {
    int64_t row;
    int lane;

    PFK_DEVICE Share(const Schedule& s) {
        const int thread = static_cast<int>(threadIdx.x);
        lane = thread & (s.lanes - 1);
        row = static_cast<int64_t>(blockIdx.x) * (kThreads / s.lanes) + thread / s.lanes;
    }
};

template <class A> PFK_DEVICE A row_sum(A value, int lanes) {
    if (lanes == kThreads)
        return block_reduce<kThreads>(value);
    for (int step = lanes / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(full_warp, value, step);
    return value;
}

} // namespace
} // namespace pfk::cuda
