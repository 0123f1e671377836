// Planted divergence at barriers and warp operations, and launches that a driver refuses. `fault` 0: the corrected
// twin.
#include "csrc/cuda/device.cuh"

namespace {

constexpr int threads = 64;

PFK_DEVICE int self() { return static_cast<int>(threadIdx.x); }

template <bool Fault> __global__ void barrier_in_branch(float* y) {
    y[self()] = 1.f;
    if (!Fault || self() < 32)
        __syncthreads();
    else
        __syncthreads();
}

template <bool Fault> __global__ void full_mask_in_half_warp(float* y) {
    float value = static_cast<float>(self());
    if (self() % 32 < 16)
        value += __shfl_xor_sync(Fault ? pfk::full_warp : 0xffffu, value, 1);
    y[self()] = value;
}

template <bool Fault> __global__ void early_return(float* y) {
    if (Fault && self() >= 40)
        return;
    y[self()] = 1.f;
    __syncthreads();
}

// Lanes that have left cannot be named.
template <bool Fault> __global__ void exited_lane(float* y) {
    if (self() % 32 == 31)
        return;
    y[self()] = static_cast<float>(__ballot_sync(Fault ? pfk::full_warp : 0x7fffffffu, 1) != 0);
}

template <bool Fault> __global__ void different_operations(float* y) {
    const bool low = self() % 32 < 16;
    float value = 1.f;
    if (Fault && low)
        value = __shfl_xor_sync(pfk::full_warp, value, 16);
    else
        value = __shfl_down_sync(pfk::full_warp, value, 16);
    y[self()] = value;
}

template <bool Fault> __global__ void outside_own_mask(float* y) {
    if (Fault || self() % 32 == 0)
        __syncwarp(1u);
    y[self()] = 1.f;
}

__global__ void nothing() {}
__global__ void dynamic_shared(float* y) {
    PFK_DYN_SHARED(float, row);
    row[0] = 1.f;
    y[0] = row[0];
}
__global__ void needs_opt_in(float* y) { y[0] = 1.f; }
__global__ void large_static_shared(float* y) {
    PFK_SHARED(float, first, [10000]);
    PFK_SHARED(float, second, [10000]);
    first[0] = second[0] = 1.f;
    y[0] = first[0] + second[0];
}

} // namespace

#define LAUNCHER(name)                                                                                                 \
    extern "C" cudaError_t launch_##name(int fault, float* y) {                                                        \
        return fault ? pfk::launch(name<true>, 1, threads, 0, nullptr, y)                                              \
                     : pfk::launch(name<false>, 1, threads, 0, nullptr, y);                                            \
    }
LAUNCHER(barrier_in_branch)
LAUNCHER(full_mask_in_half_warp)
LAUNCHER(early_return)
LAUNCHER(exited_lane)
LAUNCHER(different_operations)
LAUNCHER(outside_own_mask)

extern "C" {

cudaError_t launch_shape(int64_t gx, int64_t gy, int64_t gz, int64_t bx, int64_t by, int64_t bz) {
    auto u = [](int64_t v) { return static_cast<unsigned>(v); };
    return pfk::launch(nothing, dim3(u(gx), u(gy), u(gz)), dim3(u(bx), u(by), u(bz)), 0, nullptr);
}
cudaError_t launch_with_opt_in(float* y, int64_t shared) {
    return pfk::launch(dynamic_shared, 1, 1, static_cast<std::size_t>(shared), nullptr, y);
}
cudaError_t launch_large_static(float* y) { return pfk::launch(large_static_shared, 1, 1, 0, nullptr, y); }
cudaError_t launch_without_opt_in(float* y, int64_t shared) {
    const cudaLaunchConfig_t config = {1, 1, static_cast<std::size_t>(shared), nullptr, nullptr, 0};
    return cudaLaunchKernelEx(&config, needs_opt_in, y);
}
}
