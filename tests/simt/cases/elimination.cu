// Gaussian elimination with pivoting in shared memory, one matrix a block: barriers of every sort, one of them
// superfluous.
#include "csrc/cuda/device.cuh"

namespace {

constexpr int threads = 64;

__global__ void log_abs_determinant(const float* matrices, float* out, int n) {
    PFK_DYN_SHARED(float, a);
    PFK_SHARED(int, pivot);
    const int self = static_cast<int>(threadIdx.x);
    const float* matrix = matrices + static_cast<int64_t>(blockIdx.x) * n * n;
    for (int i = self; i < n * n; i += threads)
        a[i] = matrix[i];
    __syncthreads(); // the matrix is there
    float sum = 0.f;
    for (int k = 0; k < n; ++k) {
        if (self == 0) {
            pivot = k;
            for (int row = k + 1; row < n; ++row)
                if (fabsf(a[row * n + k]) > fabsf(a[pivot * n + k]))
                    pivot = row;
        }
        __syncthreads(); // the pivot is known
        const int p = pivot;
        for (int column = self; column < n && p != k; column += threads) {
            const float swapped = a[k * n + column];
            a[k * n + column] = a[p * n + column];
            a[p * n + column] = swapped;
        }
        __syncthreads(); // the rows are exchanged
        sum += logf(fabsf(a[k * n + k]));
        for (int row = k + 1 + self; row < n; row += threads) {
            const float factor = a[row * n + k] / a[k * n + k];
            for (int column = k + 1; column < n; ++column)
                a[row * n + column] -= factor * a[k * n + column];
        }
        __syncthreads(); // the step is done
    }
    __syncthreads(); // superfluous
    if (self == 0)
        out[blockIdx.x] = sum;
}

} // namespace

extern "C" cudaError_t run_log_abs_determinant(const float* matrices, float* out, int count, int n) {
    const auto shared = static_cast<std::size_t>(n) * static_cast<std::size_t>(n) * sizeof(float);
    return pfk::launch(log_abs_determinant, static_cast<unsigned>(count), threads, shared, nullptr, matrices, out, n);
}
