// Device functions without side effects: cached loads, approximate and exact arithmetic, bits. Part of cuda_shim.h.
#pragma once

#include <cmath>

// ---- Loads and stores with a cache hint
// -------------------------------------------------------------------------------
template <class T> SIMT_INLINE T __ldg(const T* from) { return *from; }
template <class T> SIMT_INLINE T __ldcs(const T* from) { return *from; }
template <class T> SIMT_INLINE T __ldcg(const T* from) { return *from; }
template <class T> SIMT_INLINE T __ldca(const T* from) { return *from; }
template <class T> SIMT_INLINE void __stcs(T* to, T value) { *to = value; }
template <class T> SIMT_INLINE void __stcg(T* to, T value) { *to = value; }

// ---- Approximate functions: right to the last bit here, moved by up to 2 ulp in fuzz mode
// -------------------------------
namespace simt::shim {
inline float fast_exp(float x) { return fuzz(std::exp(x)); }
inline float fast_exp10(float x) { return fuzz(std::pow(10.f, x)); }
inline float fast_log(float x) { return fuzz(std::log(x)); }
inline float fast_log2(float x) { return fuzz(std::log2(x)); }
inline float fast_log10(float x) { return fuzz(std::log10(x)); }
inline float fast_sin(float x) { return fuzz(std::sin(x)); }
inline float fast_cos(float x) { return fuzz(std::cos(x)); }
inline float fast_tan(float x) { return fuzz(std::tan(x)); }
inline float fast_pow(float x, float y) { return fuzz(std::pow(x, y)); }
} // namespace simt::shim
// Macros, because glibc's <math.h> declares functions of these names.
#define __expf simt::shim::fast_exp
#define __exp10f simt::shim::fast_exp10
#define __logf simt::shim::fast_log
#define __log2f simt::shim::fast_log2
#define __log10f simt::shim::fast_log10
#define __sinf simt::shim::fast_sin
#define __cosf simt::shim::fast_cos
#define __tanf simt::shim::fast_tan
#define __powf simt::shim::fast_pow
SIMT_INLINE float __fdividef(float x, float y) { return simt::fuzz(x / y); }
SIMT_INLINE float __frcp_rn(float x) { return 1.f / x; }
SIMT_INLINE float __fsqrt_rn(float x) { return std::sqrt(x); }
SIMT_INLINE float __frsqrt_rn(float x) { return static_cast<float>(1. / std::sqrt(static_cast<double>(x))); }
SIMT_INLINE float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
SIMT_INLINE float __fadd_rn(float x, float y) { return x + y; }
SIMT_INLINE float __fmul_rn(float x, float y) { return x * y; }
SIMT_INLINE float __fdiv_rn(float x, float y) { return x / y; }
SIMT_INLINE float __saturatef(float x) { return x >= 0.f ? (x <= 1.f ? x : 1.f) : 0.f; }
SIMT_INLINE float rsqrtf(float x) { return simt::fuzz(1.f / std::sqrt(x)); }
SIMT_INLINE double rsqrt(double x) { return 1. / std::sqrt(x); }

template <class A, class B> SIMT_INLINE std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmin(static_cast<T>(a), static_cast<T>(b));
    else
        return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
template <class A, class B> SIMT_INLINE std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmax(static_cast<T>(a), static_cast<T>(b));
    else
        return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

// ---- Bits
// -------------------------------------------------------------------------------------------------------------
SIMT_INLINE int __float_as_int(float x) { return simt::shim::from_bits<int>(simt::shim::to_bits(x)); }
SIMT_INLINE unsigned __float_as_uint(float x) { return simt::shim::from_bits<unsigned>(simt::shim::to_bits(x)); }
SIMT_INLINE float __int_as_float(int x) { return simt::shim::from_bits<float>(simt::shim::to_bits(x)); }
SIMT_INLINE float __uint_as_float(unsigned x) { return simt::shim::from_bits<float>(simt::shim::to_bits(x)); }
SIMT_INLINE long long __double_as_longlong(double x) {
    return simt::shim::from_bits<long long>(simt::shim::to_bits(x));
}
SIMT_INLINE double __longlong_as_double(long long x) { return simt::shim::from_bits<double>(simt::shim::to_bits(x)); }
SIMT_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
SIMT_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
SIMT_INLINE int __ffs(int x) { return __builtin_ffs(x); }
SIMT_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
SIMT_INLINE int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
SIMT_INLINE int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
SIMT_INLINE unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
SIMT_INLINE unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
