// Access patterns with known cost: a transpose through shared memory, strided loads.
#include "csrc/cuda/device.cuh"

namespace {

constexpr int side = 32;

template <int Pitch> __global__ void transpose(const float* x, float* y) {
    PFK_SHARED(float, tile, [side][Pitch]);
    tile[threadIdx.y][threadIdx.x] = x[threadIdx.y * side + threadIdx.x];
    __syncthreads();
    y[threadIdx.y * side + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

__global__ void strided(const float* x, float* y, int stride) { y[threadIdx.x] = x[threadIdx.x * stride]; }

__global__ void vectors(const float* x, float* y) {
    pfk::vstore(y + 4 * threadIdx.x, pfk::vload<4>(x + 4 * threadIdx.x));
}

} // namespace

extern "C" {
cudaError_t transpose_plain(const float* x, float* y) {
    return pfk::launch(transpose<side>, 1, dim3(side, side), 0, nullptr, x, y);
}
cudaError_t transpose_padded(const float* x, float* y) {
    return pfk::launch(transpose<side + 1>, 1, dim3(side, side), 0, nullptr, x, y);
}
cudaError_t load_strided(const float* x, float* y, int stride) {
    return pfk::launch(strided, 1, 32, 0, nullptr, x, y, stride);
}
cudaError_t load_vectors(const float* x, float* y) { return pfk::launch(vectors, 1, 32, 0, nullptr, x, y); }
}
