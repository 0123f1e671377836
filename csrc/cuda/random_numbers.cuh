// A row's random numbers on the GPU, four to a lane, each from its counter: for every kernel that draws.
#pragma once

#include "../math/philox.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kGroup = kPerCounter; // numbers that a lane takes at a time

// Group `group` of kGroup numbers of a row's draw.
template <class A> PFK_DEVICE void random_group(Random kind, uint64_t key, int64_t group, uint32_t draw, A* e) {
    if (kind == Random::Sign) {
        const Words words = philox(key, static_cast<uint64_t>(group >> 5), draw, kind);
        const int word = static_cast<int>(group >> 3) & 3, bit = static_cast<int>(group & 7) * kGroup;
        const uint32_t low = word & 1 ? words.at[1] : words.at[0], high = word & 1 ? words.at[3] : words.at[2];
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            e[i] = sign_of<A>(word & 2 ? high : low, bit + i);
        return;
    }
    const Words words = philox(key, static_cast<uint64_t>(group), draw, kind);
    if (kind == Random::Uniform) {
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            e[i] = uniform_of<A>(words.at[i]);
        return;
    }
    const Normals<A> front = normals_of<A>(words.at[0], words.at[1]), back = normals_of<A>(words.at[2], words.at[3]);
    e[0] = front.first, e[1] = front.second, e[2] = back.first, e[3] = back.second;
}

template <class T> constexpr int kGroupWidth = vector_width<T> < kGroup ? vector_width<T> : kGroup;

// A group of a row; Whole: rows are made of aligned groups, which move as vectors.
template <bool Whole, class T, class A> PFK_DEVICE void read_group(const T* from, int64_t left, A* to) {
    if constexpr (Whole) {
#pragma unroll
        for (int i = 0; i < kGroup; i += kGroupWidth<T>) {
            const Vec<T, kGroupWidth<T>> v = vload<kGroupWidth<T>>(from + i);
#pragma unroll
            for (int j = 0; j < kGroupWidth<T>; ++j)
                to[i + j] = widen(v[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            to[i] = i < left ? widen(from[i]) : A(0);
    }
}
template <bool Whole, class T, class A> PFK_DEVICE void write_group(T* to, int64_t left, const A* from) {
    if constexpr (Whole) {
#pragma unroll
        for (int i = 0; i < kGroup; i += kGroupWidth<T>) {
            Vec<T, kGroupWidth<T>> v;
#pragma unroll
            for (int j = 0; j < kGroupWidth<T>; ++j)
                v[j] = narrow<T>(from[i + j]);
            vstore<kGroupWidth<T>>(to + i, v);
        }
    } else {
#pragma unroll
        for (int i = 0; i < kGroup; ++i)
            if (i < left)
                to[i] = narrow<T>(from[i]);
    }
}

} // namespace
} // namespace pfk::cuda
