// hutchinson on the GPU: a row belongs to a warp or a block, by its size alone; a lane takes four neighbouring
// dimensions at a time and makes their directions again from the counter.

#include "../math/hutchinson.h"
#include "random_numbers.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kLongRow = 1024; // elements from which a block serves a row

enum class Pass { Reduce, Backward };

template <Pass Do, int Lanes, bool Whole, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 4) run(const Hutchinson p) {
    using A = arithmetic_t<T>;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % Lanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / Lanes) + thread / Lanes;
    if (row >= p.rows) // a whole warp or block
        return;
    const uint64_t key = static_cast<uint64_t>(p.keys[row]);
    const T* const images = static_cast<const T*>(p.images) + row * p.images_stride;
    T* const out = static_cast<T*>(p.out) + row * p.probes * p.size;
    const A inverse = A(1) / static_cast<A>(p.probes);
    A divergence = 0, square = 0;
    if constexpr (Do == Pass::Backward) {
        divergence = static_cast<const A*>(p.ddivergence)[row * p.ddivergence_stride] * inverse;
        square = A(2) * static_cast<const A*>(p.dsquare)[row * p.dsquare_stride] * inverse;
    }
    for (int64_t probe = 0; probe < p.probes; ++probe)
        for (int64_t d = kGroup * lane; d < p.size; d += kGroup * Lanes) {
            const int64_t at = probe * p.size + d, left = p.size - d;
            A e[kGroup], v[kGroup];
            read_group<Whole>(images + at, left, v);
            random_group(p.noise, key, d / kGroup, static_cast<uint32_t>(probe), e);
            if constexpr (Do == Pass::Reduce) {
#pragma unroll
                for (int i = 0; i < kGroup; ++i) {
                    divergence += e[i] * v[i];
                    square += v[i] * v[i];
                }
            } else {
#pragma unroll
                for (int i = 0; i < kGroup; ++i)
                    e[i] = divergence * e[i] + square * v[i];
                write_group<Whole>(out + at, left, e);
            }
        }
    if constexpr (Do == Pass::Reduce) {
        if constexpr (Lanes == kThreads) {
            divergence = block_reduce<kThreads>(divergence);
            square = block_reduce<kThreads>(square);
        } else {
            divergence = warp_reduce(divergence);
            square = warp_reduce(square);
        }
        if (lane == 0) {
            static_cast<A*>(p.divergence)[row] = divergence * inverse;
            static_cast<A*>(p.square)[row] = square * inverse;
        }
    }
}

template <Pass Do, int Lanes, class T> cudaError_t start(const Hutchinson& p, void* stream) {
    const bool whole =
        p.size % kGroup == 0 && p.images_stride % kGroup == 0 && is_aligned(p.images) && is_aligned(p.out);
    constexpr int64_t rows = kThreads / Lanes;
    return launch(whole ? run<Do, Lanes, true, T> : run<Do, Lanes, false, T>,
                  static_cast<unsigned>((p.rows + rows - 1) / rows), kThreads, 0, static_cast<cudaStream_t>(stream), p);
}

template <Pass Do, class T> cudaError_t start(const Hutchinson& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    return p.probes * p.size >= kLongRow ? start<Do, kThreads, T>(p, stream) : start<Do, warp_size, T>(p, stream);
}

} // namespace

Error hutchinson(const Hutchinson& p, void* stream) {
    return with_type(p.type, [&](auto type) { return start<Pass::Reduce, typename decltype(type)::type>(p, stream); });
}

Error hutchinson_backward(const Hutchinson& p, void* stream) {
    return with_type(p.type,
                     [&](auto type) { return start<Pass::Backward, typename decltype(type)::type>(p, stream); });
}

} // namespace pfk::cuda
