// CUDA C++ for g++: the language of kernels on top of core.h. csrc/cuda/device.cuh includes it where nvcc is absent.
// Every synchronising function carries its call site through defaulted arguments.
#pragma once

#include "core.h"

#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

// ---- Qualifiers ---------------------------------------------------------------------------------------------------
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ use_PFK_SHARED_instead_of_shared
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))

#define PFK_SHARED(type, name, ...)                                                                                    \
    static char name##_tag;                                                                                            \
    typedef type name##_array __VA_ARGS__;                                                                             \
    name##_array& name = *static_cast<name##_array*>(simt::shared_static(                                              \
        &name##_tag, #name, sizeof(name##_array), alignof(name##_array), simt::Where(__FILE__, __LINE__)))
#define PFK_DYN_SHARED(type, name) type* const name = static_cast<type*>(simt::shared_dynamic())

// ---- Launch -------------------------------------------------------------------------------------------------------
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... args) {
    if (config->numAttrs)
        return cudaErrorNotSupported;
    const std::tuple<std::decay_t<P>...> parameters(std::forward<A>(args)...);
    return simt::launch({config->gridDim, config->blockDim, config->dynamicSmemBytes,
                         reinterpret_cast<const void*>(kernel), config->stream},
                        [&] { std::apply(kernel, parameters); });
}

// After the launch, whose configuration has members of these names (kernels fill it by position).
#define threadIdx (simt::thread_idx())
#define blockIdx (simt::block_idx())
#define blockDim (simt::block_dim())
#define gridDim (simt::grid_dim())
constexpr int warpSize = 32;

#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT_HERE simt::Where(file, line)
#define SIMT_INLINE inline __attribute__((always_inline))

namespace simt::shim {

template <class T> SIMT_INLINE std::uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "shuffled values have at most 8 bytes");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}
template <class T> SIMT_INLINE T from_bits(std::uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}
template <class T> SIMT_INLINE T shuffle(Shuffle mode, unsigned mask, T value, int b, int width, Where where) {
    unsigned c = static_cast<unsigned>(32 - width) << 8 | (mode == Shuffle::up ? 0u : 31u);
    return from_bits<T>(simt::shuffle(mode, mask, to_bits(value), static_cast<unsigned>(b), c, where).value);
}

template <class T> struct Atomics; // defined for what the hardware has
template <> struct Atomics<int> {
    static constexpr Scalar type = Scalar::s32;
};
template <> struct Atomics<unsigned> {
    static constexpr Scalar type = Scalar::u32;
};
template <> struct Atomics<unsigned long long> {
    static constexpr Scalar type = Scalar::u64;
};
template <> struct Atomics<long long> {
    static constexpr Scalar type = Scalar::s64;
};
template <> struct Atomics<float> {
    static constexpr Scalar type = Scalar::f32;
};
template <> struct Atomics<double> {
    static constexpr Scalar type = Scalar::f64;
};
template <class T> struct Same {
    using type = T;
};
template <class T> using Value = typename Same<T>::type; // keeps an argument out of template deduction

template <class T> SIMT_INLINE T atomic(Atomic op, T* address, T operand, T compare, Where where) {
    return from_bits<T>(simt::atomic(op, Atomics<T>::type, address, to_bits(operand), to_bits(compare), where));
}

} // namespace simt::shim

// ---- Barriers and warp operations -----------------------------------------------------------------------------------
SIMT_INLINE void __syncthreads(SIMT_SITE) { simt::barrier(SIMT_HERE); }
SIMT_INLINE int __syncthreads_count(int predicate, SIMT_SITE) {
    return static_cast<int>(simt::barrier_count(predicate != 0, SIMT_HERE));
}
SIMT_INLINE int __syncthreads_or(int predicate, SIMT_SITE) {
    return simt::barrier_count(predicate != 0, SIMT_HERE) > 0;
}
SIMT_INLINE int __syncthreads_and(int predicate, SIMT_SITE) {
    return simt::barrier_count(predicate == 0, SIMT_HERE) == 0;
}
SIMT_INLINE void __syncwarp(unsigned mask = 0xffffffffu, SIMT_SITE) { simt::syncwarp(mask, SIMT_HERE); }

template <class T> SIMT_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
    return simt::shim::shuffle(simt::Shuffle::idx, mask, value, source, width, SIMT_HERE);
}
template <class T> SIMT_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    return simt::shim::shuffle(simt::Shuffle::up, mask, value, static_cast<int>(delta), width, SIMT_HERE);
}
template <class T> SIMT_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
    return simt::shim::shuffle(simt::Shuffle::down, mask, value, static_cast<int>(delta), width, SIMT_HERE);
}
template <class T> SIMT_INLINE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, SIMT_SITE) {
    return simt::shim::shuffle(simt::Shuffle::bfly, mask, value, lanes, width, SIMT_HERE);
}

SIMT_INLINE unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::ballot(mask, predicate != 0, SIMT_HERE);
}
SIMT_INLINE int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::ballot(mask, predicate != 0, SIMT_HERE) != 0;
}
SIMT_INLINE int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
    return simt::ballot(mask, predicate == 0, SIMT_HERE) == 0;
}
template <class T> SIMT_INLINE unsigned __match_any_sync(unsigned mask, T value, SIMT_SITE) {
    return simt::match_any(mask, simt::shim::to_bits(value), SIMT_HERE);
}
#define SIMT_REDUCE(name, T, op)                                                                                       \
    SIMT_INLINE T name(unsigned mask, T value, SIMT_SITE) {                                                            \
        return static_cast<T>(simt::reduce(simt::Reduce::op, mask, static_cast<std::uint32_t>(value), SIMT_HERE));     \
    }
SIMT_REDUCE(__reduce_add_sync, unsigned, add)
SIMT_REDUCE(__reduce_add_sync, int, add)
SIMT_REDUCE(__reduce_min_sync, unsigned, min_u32)
SIMT_REDUCE(__reduce_min_sync, int, min_s32)
SIMT_REDUCE(__reduce_max_sync, unsigned, max_u32)
SIMT_REDUCE(__reduce_max_sync, int, max_s32)
SIMT_REDUCE(__reduce_and_sync, unsigned, bit_and)
SIMT_REDUCE(__reduce_or_sync, unsigned, bit_or)
SIMT_REDUCE(__reduce_xor_sync, unsigned, bit_xor)
#undef SIMT_REDUCE

// ---- Atomics --------------------------------------------------------------------------------------------------------
#define SIMT_ATOMIC(name, op)                                                                                          \
    template <class T> SIMT_INLINE T name(T* address, simt::shim::Value<T> value, SIMT_SITE) {                         \
        return simt::shim::atomic(simt::Atomic::op, address, value, T(), SIMT_HERE);                                   \
    }
SIMT_ATOMIC(atomicAdd, add)
SIMT_ATOMIC(atomicMin, min)
SIMT_ATOMIC(atomicMax, max)
SIMT_ATOMIC(atomicExch, exchange)
SIMT_ATOMIC(atomicAnd, bit_and)
SIMT_ATOMIC(atomicOr, bit_or)
SIMT_ATOMIC(atomicXor, bit_xor)
#undef SIMT_ATOMIC
template <class T>
SIMT_INLINE T atomicCAS(T* address, simt::shim::Value<T> compare, simt::shim::Value<T> value, SIMT_SITE) {
    return simt::shim::atomic(simt::Atomic::compare_exchange, address, value, compare, SIMT_HERE);
}

// Fences order nothing that this machine could reorder: a missing one is invisible here.
SIMT_INLINE void __threadfence() {}
SIMT_INLINE void __threadfence_block() {}
SIMT_INLINE void __trap(SIMT_SITE) { simt::fail(cudaErrorLaunchFailure, "TRAP", SIMT_HERE); }

#include "cuda_functions.h"
