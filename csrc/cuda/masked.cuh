// What kernels under a mask share: the sums of rows that several warps or blocks had a part of, and the ways from
// run-time types to templates. Internal linkage.
#pragma once

#include "../math/host_device.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256;

// A warp a row.
template <class A>
__global__ void __launch_bounds__(kThreads) add_segments(const A* sums, A* ladj, int64_t rows, int64_t segments) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / warp_size) + threadIdx.x / warp_size;
    if (row >= rows)
        return;
    A sum = 0;
    for (int64_t i = threadIdx.x % warp_size; i < segments; i += warp_size)
        sum += sums[row * segments + i];
    sum = warp_reduce(sum);
    if (threadIdx.x % warp_size == 0)
        ladj[row] = sum;
}

template <class A>
cudaError_t launch_sums(const A* sums, A* ladj, int64_t rows, int64_t segments, cudaStream_t stream) {
    const int64_t blocks = (rows + kThreads / warp_size - 1) / (kThreads / warp_size);
    return launch(add_segments<A>, static_cast<unsigned>(blocks), kThreads, 0, stream, sums, ladj, rows, segments);
}

// Calls body(Type<T>, Type<P>): x and params in memory.
template <class Body> cudaError_t with_types(DType state, DType param, Body body) {
    switch (state) {
    case DType::F64:
        return body(Type<double>{}, Type<double>{});
    case DType::BF16:
        return body(Type<bf16>{}, Type<bf16>{});
    case DType::F16:
        return body(Type<fp16>{}, Type<fp16>{});
    case DType::F32:
        break;
    }
    if (param == DType::BF16)
        return body(Type<float>{}, Type<bf16>{});
    if (param == DType::F16)
        return body(Type<float>{}, Type<fp16>{});
    return body(Type<float>{}, Type<float>{});
}

} // namespace
} // namespace pfk::cuda
