// random_numbers on the GPU: a row belongs to a warp or a block, by its size alone; a lane makes four neighbouring
// numbers of a draw at a time.

#include "../math/random_numbers.h"
#include "random_numbers.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kLongRow = 1024; // numbers from which a block serves a row

template <int Lanes, bool Whole, class A> __global__ void __launch_bounds__(kThreads) draw(const RandomNumbers p) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % Lanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / Lanes) + thread / Lanes;
    if (row >= p.rows)
        return;
    const uint64_t key = static_cast<uint64_t>(p.keys[row]);
    A* const out = static_cast<A*>(p.out) + row * p.draws * p.size;
    for (int64_t k = 0; k < p.draws; ++k)
        for (int64_t d = kGroup * lane; d < p.size; d += kGroup * Lanes) {
            A e[kGroup];
            random_group(p.kind, key, d / kGroup, static_cast<uint32_t>(k), e);
            write_group<Whole>(out + k * p.size + d, p.size - d, e);
        }
}

template <int Lanes, class A> cudaError_t start(const RandomNumbers& p, void* stream) {
    constexpr int64_t rows = kThreads / Lanes;
    return launch(p.size % kGroup == 0 && is_aligned(p.out) ? draw<Lanes, true, A> : draw<Lanes, false, A>,
                  static_cast<unsigned>((p.rows + rows - 1) / rows), kThreads, 0, static_cast<cudaStream_t>(stream), p);
}

template <class A> cudaError_t start(const RandomNumbers& p, void* stream) {
    if (p.rows * p.draws * p.size == 0)
        return cudaSuccess;
    return p.draws * p.size >= kLongRow ? start<kThreads, A>(p, stream) : start<warp_size, A>(p, stream);
}

} // namespace

Error random_numbers(const RandomNumbers& p, void* stream) {
    return p.type == DType::F64 ? start<double>(p, stream) : start<float>(p, stream);
}

} // namespace pfk::cuda
