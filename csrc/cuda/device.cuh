// What every CUDA kernel of this project is written against: shared memory, launches, vectors, conversions, reductions.
// nvcc compiles it for the card; g++ compiles the same kernels for the CPU test bench (tests/simt/shim).
//
// Rules for kernels: 64-bit offsets, float accumulation for 16-bit data, whole warps leave early or nobody does, full
// masks, no talk between blocks but by atomics or a second launch, no local array indexed at run time, and a scalar
// path with an alignment test beside every vector path.
#pragma once

#include "../math/host_device.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

// PFK_SHARED(float, tile, [32][33]) or PFK_SHARED(float, total); PFK_DYN_SHARED(float, row) gives a 16-byte aligned
// pointer to the dynamic part. A type with a comma in it needs an alias.
#define PFK_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define PFK_DYN_SHARED(type, name)                                                                                     \
    extern __shared__ __align__(16) unsigned char pfk_dynamic_shared[];                                                \
    type* const name = reinterpret_cast<type*>(pfk_dynamic_shared)
#else
#include "cuda_shim.h"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <utility>

#define PFK_DEVICE __device__ __forceinline__

namespace pfk {

using bf16 = __nv_bfloat16;
using fp16 = __half;

constexpr unsigned full_warp = 0xffffffffu;
constexpr int warp_size = 32;

// ---- Launch ---------------------------------------------------------------------------------------------------------
// kernel<<<grid, block, shared_bytes, stream>>>(args...), written so that any C++ compiler can read it. Asks for the
// opt-in that more than 48 KiB of dynamic shared memory need.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                   A&&... args) {
    if (shared_bytes > 48 * 1024) {
        const cudaError_t refused =
            cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
        if (refused != cudaSuccess)
            return refused;
    }
    const cudaLaunchConfig_t config = {grid, block, shared_bytes, stream, nullptr, 0};
    return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
}

// ---- Vectors: one memory transaction for N elements -----------------------------------------------------------------
template <class T, int N> struct alignas(sizeof(T) * N) Vec {
    static_assert(sizeof(T) * N <= 16 && (sizeof(T) * N & (sizeof(T) * N - 1)) == 0, "a power of two up to 16 bytes");
    T at[N];
    PFK_DEVICE T& operator[](int i) { return at[i]; }
    PFK_DEVICE const T& operator[](int i) const { return at[i]; }
};

template <class T> constexpr int vector_width = 16 / static_cast<int>(sizeof(T)); // elements of a 128-bit access

template <int N, class T> PFK_DEVICE Vec<T, N> vload(const T* from) {
    return *reinterpret_cast<const Vec<T, N>*>(from);
}
template <int N, class T> PFK_DEVICE void vstore(T* to, const Vec<T, N>& value) {
#ifdef __CUDACC__
    // By intrinsic: left to itself, nvcc splits a vector whose elements are chosen one by one into scalar stores.
    if constexpr (sizeof(value) == 16) {
        uint4 words;
        __builtin_memcpy(&words, &value, sizeof words);
        __stwb(reinterpret_cast<uint4*>(to), words);
        return;
    } else if constexpr (sizeof(value) == 8) {
        uint2 words;
        __builtin_memcpy(&words, &value, sizeof words);
        __stwb(reinterpret_cast<uint2*>(to), words);
        return;
    }
#endif
    *reinterpret_cast<Vec<T, N>*>(to) = value;
}

// Launchers choose the vector path by it.
inline bool is_aligned(const void* address, std::size_t bytes = 16) {
    return reinterpret_cast<std::uintptr_t>(address) % bytes == 0;
}

// ---- Element types: arithmetic never happens in 16 bits -------------------------------------------------------------
template <class T> struct ArithmeticOf {
    using type = float;
};
template <> struct ArithmeticOf<double> {
    using type = double;
};
template <class T> using arithmetic_t = typename ArithmeticOf<T>::type;

PFK_DEVICE float widen(float x) { return x; }
PFK_DEVICE double widen(double x) { return x; }
PFK_DEVICE float widen(bf16 x) { return __bfloat162float(x); }
PFK_DEVICE float widen(fp16 x) { return __half2float(x); }

template <class T> PFK_DEVICE T narrow(arithmetic_t<T> x) { return x; }
template <> PFK_DEVICE bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> PFK_DEVICE fp16 narrow<fp16>(float x) { return __float2half_rn(x); }

// From run-time types to templates: calls body(Type<T>).
template <class T> struct Type {
    using type = T;
};

template <class Body> cudaError_t with_type(DType type, Body body) {
    switch (type) {
    case DType::F64:
        return body(Type<double>{});
    case DType::BF16:
        return body(Type<bf16>{});
    case DType::F16:
        return body(Type<fp16>{});
    case DType::F32:
        break;
    }
    return body(Type<float>{});
}

// ---- Reductions in a fixed order, the result in every lane or thread ------------------------------------------------
struct Plus {
    template <class A> PFK_DEVICE A operator()(A a, A b) const { return a + b; }
};
struct Larger {
    template <class A> PFK_DEVICE A operator()(A a, A b) const { return a > b ? a : b; }
};

// Over groups of `Width` neighbouring lanes; the whole warp must call it.
template <int Width = warp_size, class A, class Op = Plus> PFK_DEVICE A warp_reduce(A value, Op op = Op()) {
    static_assert(Width > 0 && Width <= warp_size && (Width & (Width - 1)) == 0, "a power of two up to 32");
#pragma unroll
    for (int step = Width / 2; step > 0; step /= 2)
        value = op(value, __shfl_xor_sync(full_warp, value, step));
    return value;
}

// Over a block of `Threads` threads (a multiple of 32); all of them must call it.
template <int Threads, class A, class Op = Plus> PFK_DEVICE A block_reduce(A value, Op op = Op()) {
    static_assert(Threads % warp_size == 0 && Threads <= 1024, "whole warps only");
    constexpr int warps = Threads / warp_size;
    value = warp_reduce(value, op);
    if constexpr (warps > 1) {
        PFK_SHARED(A, partial, [warps]);
        const int thread = static_cast<int>(threadIdx.x);
        if (thread % warp_size == 0)
            partial[thread / warp_size] = value;
        __syncthreads();
        value = partial[0];
#pragma unroll
        for (int i = 1; i < warps; ++i)
            value = op(value, partial[i]);
        __syncthreads(); // the next call writes `partial` again
    }
    return value;
}

} // namespace pfk
