#include "csrc/cuda/device.cuh"

namespace {

template <int Threads> __global__ void __launch_bounds__(Threads) row_sums(const float* x, float* sums, int64_t columns) {
    float sum = 0.f;
    const float* row = x + blockIdx.x * columns;
    for (int64_t i = threadIdx.x; i < columns; i += Threads) sum += row[i];
    sum = pfk::block_reduce<Threads>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

} // namespace

extern "C" cudaError_t smoke(const float* x, float* sums, int64_t rows, int64_t columns) {
    return pfk::launch(row_sums<128>, dim3(static_cast<unsigned>(rows)), 128, 0, nullptr, x, sums, columns);
}
