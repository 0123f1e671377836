// Planted memory faults. Every launcher takes `fault`: 0 runs the corrected twin.
#include "csrc/cuda/device.cuh"

namespace {

constexpr int threads = 64;

template <bool Fault> __global__ void copy(const float* x, float* y, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (Fault || i < n)
        y[i] = x[i];
}

template <bool Fault> __global__ void write_past_end(float* y, int n) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < n)
        y[Fault ? i + 1 : i] = 1.f;
}

template <bool Fault> __global__ void dynamic_shared(float* y, int n) {
    PFK_DYN_SHARED(float, row);
    const int i = static_cast<int>(threadIdx.x);
    row[Fault ? i + 1 : i] = 1.f;
    y[i] = row[i];
}

template <bool Fault> __global__ void static_shared(float* y, int n) {
    PFK_SHARED(float, before, [threads]);
    PFK_SHARED(float, tile, [threads]);
    const int i = static_cast<int>(threadIdx.x);
    before[i] = 1.f;
    tile[Fault ? i + n - threads + 1 : i] = 2.f;
    y[i] = before[i] + tile[i];
}

// Four floats at a time; the corrected twin looks at the addresses.
__global__ void scale_vectors(const float* x, float* y, int n) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= n / 4)
        return;
    pfk::Vec<float, 4> v = pfk::vload<4>(x + 4 * i);
    for (int k = 0; k < 4; ++k)
        v[k] *= 2.f;
    pfk::vstore(y + 4 * i, v);
}
__global__ void scale_scalars(const float* x, float* y, int n) {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
        y[i] = x[i] * 2.f;
}

template <bool Fault> __global__ void uninitialised_shared(float* y, int n) {
    PFK_SHARED(float, tile, [threads]);
    const int i = static_cast<int>(threadIdx.x);
    if (!Fault || i != 7)
        tile[i] = 1.f;
    y[i] = tile[i];
}

template <bool Fault> __global__ void uninitialised_output(float* y, int n) {
    const int i = static_cast<int>(threadIdx.x);
    if (Fault)
        y[i] += 1.f;
    else
        y[i] = 1.f;
}

} // namespace

#define LAUNCH(kernel, shared, ...)                                                                                    \
    (fault ? pfk::launch(kernel<true>, 1, threads, shared, nullptr, __VA_ARGS__)                                       \
           : pfk::launch(kernel<false>, 1, threads, shared, nullptr, __VA_ARGS__))

extern "C" {

cudaError_t read_outside(int fault, const float* x, float* y, int n) { return LAUNCH(copy, 0, x, y, n); }
cudaError_t write_outside(int fault, float* y, int n) { return LAUNCH(write_past_end, 0, y, n); }
cudaError_t dynamic_outside(int fault, float* y, int n) { return LAUNCH(dynamic_shared, threads * 4, y, n); }
cudaError_t static_outside(int fault, float* y, int n) { return LAUNCH(static_shared, 0, y, n); }
cudaError_t alignment_untested(int fault, const float* x, float* y, int n) {
    if (fault || (pfk::is_aligned(x) && pfk::is_aligned(y)))
        return pfk::launch(scale_vectors, 1, threads, 0, nullptr, x, y, n);
    return pfk::launch(scale_scalars, 1, threads, 0, nullptr, x, y, n);
}
cudaError_t shared_unwritten(int fault, float* y, int n) { return LAUNCH(uninitialised_shared, 0, y, n); }
cudaError_t output_unwritten(int fault, float* y, int n) { return LAUNCH(uninitialised_output, 0, y, n); }
}
