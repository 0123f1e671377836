// One kernel for each thing that the shim and csrc/cuda/device.cuh promise; test_shim.py knows the answers.
#include "csrc/cuda/device.cuh"

namespace {

PFK_DEVICE int self() { return static_cast<int>(threadIdx.x); }

__global__ void shuffles(int* out, int argument, int width) { // one warp; four rows of 32
    const int value = 100 + self();
    out[self()] = __shfl_sync(pfk::full_warp, value, argument, width);
    out[32 + self()] = __shfl_up_sync(pfk::full_warp, value, static_cast<unsigned>(argument), width);
    out[64 + self()] = __shfl_down_sync(pfk::full_warp, value, static_cast<unsigned>(argument), width);
    out[96 + self()] = __shfl_xor_sync(pfk::full_warp, value, argument, width);
}

__global__ void inactive_source(double* out) { // only even lanes take part
    if (self() % 2 == 0)
        out[self()] = __shfl_xor_sync(0x55555555u, 1.0, self() < 16 ? 1 : 2);
}

__global__ void votes(unsigned* out) {
    const unsigned lane = threadIdx.x, mask = pfk::full_warp;
    unsigned* row = out + 16 * lane;
    row[0] = __ballot_sync(mask, lane % 3 == 0);
    row[1] = static_cast<unsigned>(__any_sync(mask, lane == 40) * 2 + __any_sync(mask, lane == 31));
    row[2] = static_cast<unsigned>(__all_sync(mask, lane < 32) * 2 + __all_sync(mask, lane < 31));
    row[3] = __match_any_sync(mask, lane % 5);
    row[4] = __reduce_add_sync(mask, lane);
    row[5] = __reduce_min_sync(mask, lane + 7);
    row[6] = __reduce_max_sync(mask, lane);
    row[7] = static_cast<unsigned>(__reduce_min_sync(mask, static_cast<int>(lane) - 20));
    row[8] = static_cast<unsigned>(__reduce_max_sync(mask, static_cast<int>(lane) - 40));
    row[9] = __reduce_and_sync(mask, lane | 8u);
    row[10] = __reduce_or_sync(mask, lane & 6u);
    row[11] = __reduce_xor_sync(mask, lane);
    row[12] = lane < 8 ? __ballot_sync(0xffu, 1) : __ballot_sync(0xffffff00u, lane % 2 == 0);
}

__global__ void partial_warp(unsigned* out) { out[threadIdx.x] = __ballot_sync(pfk::full_warp, 1); }

__global__ void block_votes(int* out, int limit) {
    const int below = self() < limit;
    const int count = __syncthreads_count(below), all = __syncthreads_and(below), any = __syncthreads_or(below);
    if (self() == 0) {
        out[0] = count;
        out[1] = all;
        out[2] = any;
    }
}

__global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d) {
    atomicAdd(i, self() - 3);
    atomicMin(i + 1, -self());
    atomicMax(i + 2, self());
    atomicAnd(u, ~threadIdx.x);
    atomicOr(u + 1, threadIdx.x);
    atomicXor(u + 2, threadIdx.x);
    atomicExch(u + 3, threadIdx.x);
    atomicAdd(l, 1ull << 40);
    atomicAdd(f, 0.5f);
    atomicAdd(d, 0.25);
    for (unsigned old = 0, seen;; old = seen)
        if ((seen = atomicCAS(u + 4, old, old + 2)) == old)
            break;
}

__global__ void indices(int* out) {
    const int thread = static_cast<int>((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
    const int block = static_cast<int>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
    const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    out[block * threads + thread] = block * 1000 + thread;
}

__global__ void arrival(int* counter, int* out) { out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1); }

template <int Threads> __global__ void reductions(const float* x, float* out) {
    const float sum = pfk::block_reduce<Threads>(x[self()]);
    const float squares = pfk::block_reduce<Threads>(x[self()] * x[self()]); // the same array at once again
    const float largest = pfk::block_reduce<Threads>(x[self()], pfk::Larger());
    const float of_eight = pfk::warp_reduce<8>(x[self()]);
    out[self()] = sum;
    out[Threads + self()] = largest;
    out[2 * Threads + self()] = squares;
    out[3 * Threads + self()] = of_eight;
}

template <class T> __global__ void convert(const float* x, float* out) { // through memory of type T, 16 bytes at a time
    constexpr int width = pfk::vector_width<T>;
    PFK_DYN_SHARED(T, row);
    pfk::Vec<T, width> v;
    for (int k = 0; k < width; ++k)
        v[k] = pfk::narrow<T>(static_cast<pfk::arithmetic_t<T>>(x[width * self() + k]));
    pfk::vstore(row + width * self(), v);
    __syncthreads();
    v = pfk::vload<width>(row + width * self());
    for (int k = 0; k < width; ++k)
        out[width * self() + k] = static_cast<float>(pfk::widen(v[k]));
}

__global__ void fill(unsigned char* out, int64_t n) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = 7;
}

__global__ void approximate(float* out) { out[self()] = __expf(static_cast<float>(self()) / 64.f); }

} // namespace

extern "C" {
cudaError_t run_shuffles(int* out, int argument, int width) {
    return pfk::launch(shuffles, 1, 32, 0, nullptr, out, argument, width);
}
cudaError_t run_inactive_source(double* out) { return pfk::launch(inactive_source, 1, 32, 0, nullptr, out); }
cudaError_t run_votes(unsigned* out) { return pfk::launch(votes, 1, 32, 0, nullptr, out); }
cudaError_t run_partial_warp(unsigned* out) { return pfk::launch(partial_warp, 1, 40, 0, nullptr, out); }
cudaError_t run_block_votes(int* out, int limit) { return pfk::launch(block_votes, 1, 96, 0, nullptr, out, limit); }
cudaError_t run_atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d) {
    return pfk::launch(atomics, 2, 64, 0, nullptr, i, u, l, f, d);
}
cudaError_t run_indices(int* out) { return pfk::launch(indices, dim3(2, 3, 4), dim3(5, 3, 2), 0, nullptr, out); }
cudaError_t run_arrival(int* counter, int* out) { return pfk::launch(arrival, 4, 32, 0, nullptr, counter, out); }
cudaError_t run_reductions(int threads, const float* x, float* out) {
    return threads == 32    ? pfk::launch(reductions<32>, 1, 32, 0, nullptr, x, out)
           : threads == 128 ? pfk::launch(reductions<128>, 1, 128, 0, nullptr, x, out)
                            : pfk::launch(reductions<1024>, 1, 1024, 0, nullptr, x, out);
}
cudaError_t run_convert(int type, const float* x, float* out) { // 1024 elements
    return type == 0   ? pfk::launch(convert<float>, 1, 256, 4096, nullptr, x, out)
           : type == 1 ? pfk::launch(convert<double>, 1, 512, 8192, nullptr, x, out)
           : type == 2 ? pfk::launch(convert<pfk::bf16>, 1, 128, 2048, nullptr, x, out)
                       : pfk::launch(convert<pfk::fp16>, 1, 128, 2048, nullptr, x, out);
}
cudaError_t run_fill(unsigned char* out, int64_t n) {
    return pfk::launch(fill, static_cast<unsigned>((n + 255) / 256), 256, 0, nullptr, out, n);
}
cudaError_t run_approximate(float* out) { return pfk::launch(approximate, 1, 64, 0, nullptr, out); }
}
