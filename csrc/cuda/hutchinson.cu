// hutchinson on the GPU: a row belongs to a warp or a block, by its size alone; a lane takes four neighbouring
// dimensions at a time and makes their directions again from the counter.

#include "../math/hutchinson.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kGroup = 4; // dimensions that a lane takes at a time
constexpr int64_t kLongRow = 1024;        // elements from which a block serves a row

enum class Pass { Reduce, Backward, Directions };

template <class A> PFK_DEVICE void directions(const Hutchinson& p, uint64_t key, int64_t group, uint32_t probe, A* e) {
    if (p.noise == Noise::Rademacher) {
        const Words words = philox(key, static_cast<uint64_t>(group >> 5), probe, p.noise);
        const int word = static_cast<int>(group >> 3) & 3, bit = static_cast<int>(group & 7) * kGroup;
        const uint32_t low = word & 1 ? words.at[1] : words.at[0], high = word & 1 ? words.at[3] : words.at[2];
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            e[i] = sign_of<A>(word & 2 ? high : low, bit + i);
        return;
    }
    const Words words = philox(key, static_cast<uint64_t>(group), probe, p.noise);
    const Normals<A> front = normals_of<A>(words.at[0], words.at[1]), back = normals_of<A>(words.at[2], words.at[3]);
    e[0] = front.first, e[1] = front.second, e[2] = back.first, e[3] = back.second;
}

template <class T> constexpr int kWidth = vector_width<T> < kGroup ? vector_width<T> : kGroup;

// Whole: rows are made of aligned groups, which move as vectors.
template <bool Whole, class T, class A> PFK_DEVICE void read(const T* from, int64_t left, A* to) {
    if constexpr (Whole) {
#pragma unroll
        for (int i = 0; i < kGroup; i += kWidth<T>) {
            const Vec<T, kWidth<T>> v = vload<kWidth<T>>(from + i);
#pragma unroll
            for (int j = 0; j < kWidth<T>; ++j)
                to[i + j] = widen(v[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            to[i] = i < left ? widen(from[i]) : A(0);
    }
}
template <bool Whole, class T, class A> PFK_DEVICE void write(T* to, int64_t left, const A* from) {
    if constexpr (Whole) {
#pragma unroll
        for (int i = 0; i < kGroup; i += kWidth<T>) {
            Vec<T, kWidth<T>> v;
#pragma unroll
            for (int j = 0; j < kWidth<T>; ++j)
                v[j] = narrow<T>(from[i + j]);
            vstore<kWidth<T>>(to + i, v);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            if (i < left)
                to[i] = narrow<T>(from[i]);
    }
}

template <Pass Do, int Lanes, bool Whole, class T> __global__ void __launch_bounds__(kThreads) run(const Hutchinson p) {
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
            if constexpr (Do != Pass::Directions)
                read<Whole>(images + at, left, v);
            directions(p, key, d / kGroup, static_cast<uint32_t>(probe), e);
            if constexpr (Do == Pass::Reduce) {
#pragma unroll
                for (int i = 0; i < kGroup; ++i) {
                    divergence += e[i] * v[i];
                    square += v[i] * v[i];
                }
            } else {
                if constexpr (Do == Pass::Backward) {
#pragma unroll
                    for (int i = 0; i < kGroup; ++i)
                        e[i] = divergence * e[i] + square * v[i];
                }
                write<Whole>(out + at, left, e);
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

Error hutchinson_directions(const Hutchinson& p, void* stream) {
    return p.type == DType::F64 ? start<Pass::Directions, double>(p, stream)
                                : start<Pass::Directions, float>(p, stream);
}

} // namespace pfk::cuda
