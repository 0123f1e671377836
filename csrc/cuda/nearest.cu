// nearest on the GPU: a warp takes four sources at a time, its lanes every 32nd target. Where there are many
// coordinates torch's product does better (pyflowk/ops/nearest.py).

#include "../math/nearest.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / warp_size, kEach = 4; // sources of a warp

template <class T, class A> __global__ void __launch_bounds__(kThreads) search(const Nearest p) {
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
    const int64_t row = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kEach;
    if (row >= p.rows) // a whole warp
        return;
    const T* x0[kEach];
    A best[kEach];
    int64_t index[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        x0[i] = static_cast<const T*>(p.x0) + (row + i < p.rows ? row + i : row) * p.x0_stride;
        best[i] = -static_cast<A>(__builtin_huge_val());
        index[i] = 0;
    }
    for (int64_t j = lane; j < p.targets; j += warp_size) {
        const T* const x1 = static_cast<const T*>(p.x1) + j * p.x1_stride;
        const A height = static_cast<const A*>(p.heights)[j * p.heights_stride];
        A sum[kEach] = {height, height, height, height};
        for (int64_t d = 0; d < p.size; ++d) {
            const A y = widen(x1[d]);
#pragma unroll
            for (int i = 0; i < kEach; ++i)
                sum[i] += widen(x0[i][d]) * y;
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i)
            if (sum[i] > best[i] || sum[i] != sum[i]) { // NaN wins, and stays
                best[i] = sum[i];
                index[i] = j;
            }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        for (int step = warp_size / 2; step > 0; step /= 2) {
            const A other = __shfl_xor_sync(full_warp, best[i], step);
            const int64_t at = __shfl_xor_sync(full_warp, index[i], step);
            const bool here = best[i] == best[i]; // no NaN
            if (here && (other > best[i] || other != other || (other == best[i] && at < index[i]))) {
                best[i] = other;
                index[i] = at;
            }
        }
        if (lane == 0 && row + i < p.rows) {
            p.index[row + i] = best[i] == -static_cast<A>(__builtin_huge_val()) ? 0 : index[i];
            static_cast<A*>(p.value)[row + i] = best[i];
        }
    }
}

} // namespace

Error nearest(const Nearest& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    const auto blocks = static_cast<unsigned>((p.rows + kWarps * kEach - 1) / (kWarps * kEach));
    return with_type(p.type, [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(search<T, arithmetic_t<T>>, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), p);
    });
}

} // namespace pfk::cuda
