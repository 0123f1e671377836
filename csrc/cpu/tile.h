// Staging between memory and arithmetic: types, strides and row sums. Included once per instruction set, so everything
// here has internal linkage and nothing comes from the standard library's templates.
#pragma once

#include "../math/host_device.h"

#include <cstddef>

namespace pfk::cpu {
namespace {

constexpr int64_t kLanes = 16; // every vector loop runs over whole groups of this many elements
constexpr int64_t kTile = 512; // elements that are staged at a time; all buffers of a kernel fit in L1

struct bf16 {
    uint16_t bits;
};
using fp16 = _Float16;

template <class A, class T> PFK_HD A load(const T& value) { return static_cast<A>(value); }
template <> inline __attribute__((always_inline)) float load<float, bf16>(const bf16& value) {
    const uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
    float out;
    __builtin_memcpy(&out, &wide, 4);
    return out;
}

template <class T, class A> PFK_HD void store(T& target, A value) { target = static_cast<T>(value); }
template <> inline __attribute__((always_inline)) void store<bf16, float>(bf16& target, float value) {
    uint32_t wide;
    __builtin_memcpy(&wide, &value, 4);
    const uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16; // to nearest, ties to even
    target.bits = static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);
}

// Calls body with a value of the type in memory and one of the type of its arithmetic.
template <class Body> void with_types(DType type, Body body) {
    switch (type) {
    case DType::F64:
        return body(double{}, double{});
    case DType::BF16:
        return body(bf16{}, float{});
    case DType::F16:
        return body(fp16{}, float{});
    case DType::F32:
        return body(float{}, float{});
    }
}

template <class T, class A> PFK_HD void gather(const T* from, int64_t step, A* to, int64_t n) {
    if (step == 1)
        for (int64_t i = 0; i < n; ++i)
            to[i] = load<A>(from[i]);
    else
        for (int64_t i = 0; i < n; ++i)
            to[i] = load<A>(from[2 * i]);
}

template <class T, class A> PFK_HD void scatter(const A* from, T* to, int64_t step, int64_t n) {
    if (step == 1)
        for (int64_t i = 0; i < n; ++i)
            store(to[i], from[i]);
    else
        for (int64_t i = 0; i < n; ++i)
            store(to[2 * i], from[i]);
}

template <class T> PFK_HD void copy(const T* from, T* to, int64_t n) {
    if (n == 1)
        *to = *from;
    else if (n > 1)
        __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

// The identity part of short rows: below a few hundred elements the loop beats a call of memcpy.
template <class T> PFK_HD void copy_row(const T* from, T* to, int64_t n) {
    if (n > 256)
        return copy(from, to, n);
    for (int64_t i = 0; i + kLanes <= n; i += kLanes)
        __builtin_memcpy(to + i, from + i, kLanes * sizeof(T));
    for (int64_t i = n / kLanes * kLanes; i < n; ++i)
        to[i] = from[i];
}

// One register of the instruction set: what compares, selects and loop-carried values want. GCC takes wider vectors
// through memory.
#if defined(__AVX512F__)
constexpr int64_t kRegister = 64;
#elif defined(__AVX__)
constexpr int64_t kRegister = 32;
#else
constexpr int64_t kRegister = 16;
#endif
template <class A> struct RegisterOf {
    typedef A Type __attribute__((vector_size(kRegister), aligned(sizeof(A)), may_alias));
    static constexpr int64_t lanes = kRegister / static_cast<int64_t>(sizeof(A));
};

// A row's sum in a fixed order: element k goes to lane k mod 16, then the lanes are added as a tree. The order depends
// on the row alone, never on threads or on the rows beside it.
template <class A> struct RowSum {
    using Part = typename RegisterOf<A>::Type;
    static constexpr int64_t width = RegisterOf<A>::lanes, parts = kLanes / width;
    Part lanes[parts] = {};

    // n is a multiple of kLanes
    __attribute__((always_inline)) void add_lanes(const A* values, int64_t n) {
        for (int64_t i = 0; i < n; i += kLanes)
            for (int64_t p = 0; p < parts; ++p)
                lanes[p] += *reinterpret_cast<const Part*>(values + i + p * width);
    }

    __attribute__((always_inline)) void add(const A* values, int64_t n) {
        const int64_t whole = n / kLanes * kLanes;
        add_lanes(values, whole);
        for (int64_t l = 0; whole + l < n; ++l)
            lanes[l / width][l % width] += values[whole + l];
    }

    __attribute__((always_inline)) A total() const {
        A lane[kLanes];
        __builtin_memcpy(lane, &lanes, sizeof(lane));
        for (int64_t half = kLanes / 2; half > 0; half /= 2)
#pragma omp simd
            for (int64_t l = 0; l < half; ++l)
                lane[l] += lane[l + half];
        return lane[0];
    }
};

} // namespace
} // namespace pfk::cpu
