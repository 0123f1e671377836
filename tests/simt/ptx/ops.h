// What the translated PTX calls: raw-bit registers, arithmetic as PTX defines it, memory through the core.
#pragma once

#include "../shim/core.h"

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace ptx {

using simt::Where;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using f32 = float;
using f64 = double;
using pred = bool;
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

template <class T>
constexpr bool is_float = std::is_floating_point_v<T> || std::is_same_v<T, f16> || std::is_same_v<T, bf16>;

// ---- Registers hold bits ------------------------------------------------------------------------------------------
template <class T, class R> inline T as(R bits) { // a wider register or a literal gives its low part
    if constexpr (std::is_same_v<T, pred>)
        return bits != 0;
    else if constexpr (is_float<T>) {
        if constexpr (sizeof(R) == sizeof(T))
            return std::bit_cast<T>(bits);
        else if constexpr (sizeof(T) == 2)
            return T{static_cast<u16>(bits)};
        else
            static_assert(sizeof(R) == sizeof(T), "a floating-point operand must have its register's size");
    } else
        return static_cast<T>(bits);
}
template <class R, class T> inline void set(R& target, T value) { // narrower values are sign- or zero-extended
    if constexpr (is_float<T>) {
        if constexpr (sizeof(T) == 2)
            target = value.bits;
        else
            target = std::bit_cast<R>(value);
    } else
        target = static_cast<R>(value);
}

// ---- Floating point
// --------------------------------------------------------------------------------------------------
inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; } // .ftz
inline double flush(double x) { return std::fabs(x) < 0x1p-1022 ? std::copysign(0., x) : x; }
template <class T> inline T saturate(T x) { return x >= 0 ? (x <= 1 ? x : T(1)) : T(0); } // .sat: NaN gives 0
template <class T> inline T minimum(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a) || std::isnan(b))
            return std::isnan(a) ? (std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : b) : a;
        if (a == b)
            return std::signbit(a) ? a : b;
    }
    return a < b ? a : b;
}
template <class T> inline T maximum(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(a) || std::isnan(b))
            return std::isnan(a) ? (std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : b) : a;
        if (a == b)
            return std::signbit(a) ? b : a;
    }
    return a > b ? a : b;
}
template <class T> inline T nan_or(T a, T b, T value) {
    return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : value;
}

// .rm, .rp, .rz arithmetic: volatile keeps the compiler from moving it across the mode switch.
template <class T> __attribute__((noinline)) T rounded_fma(int mode, T a, T b, T c) {
    volatile T x = a, y = b, z = c;
    std::fesetround(mode);
    volatile T result = std::fma(x, y, z);
    std::fesetround(FE_TONEAREST);
    return result;
}
template <class T> inline T rounded_add(int mode, T a, T b) { return rounded_fma(mode, a, T(1), b); }
template <class T> inline T rounded_sub(int mode, T a, T b) { return rounded_fma(mode, a, T(1), -b); }
template <class T> __attribute__((noinline)) T rounded_mul(int mode, T a, T b) {
    volatile T x = a, y = b;
    std::fesetround(mode);
    volatile T result = x * y;
    std::fesetround(FE_TONEAREST);
    return result;
}

// Approximate instructions are exact here, moved by up to 2 ulp in fuzz mode.
inline float approximate(double exact) { return simt::fuzz(static_cast<float>(exact)); }
// .approx.ftz.f64: a seed for Newton's iteration, whose low word is zero.
inline double gross(double exact) { return std::bit_cast<double>(std::bit_cast<u64>(exact) >> 32 << 32); }

inline u16 half_bits(float x) { return std::bit_cast<u16>(static_cast<_Float16>(x)); }
inline u16 half_bits(double x) { return std::bit_cast<u16>(static_cast<_Float16>(x)); }
inline u16 bfloat_bits(float x) { // to nearest even
    const u32 bits = std::bit_cast<u32>(x);
    if (std::isnan(x))
        return 0x7fff;
    return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float widen(f16 x) { return static_cast<float>(std::bit_cast<_Float16>(x.bits)); }
inline float widen(bf16 x) { return std::bit_cast<float>(static_cast<u32>(x.bits) << 16); }
template <class T> inline T widen(T x) { return x; }

enum class Round { none, nearest, zero, down, up };
template <class T> inline T to_integral(T x, Round mode) { // .rni, .rzi, .rmi, .rpi
    return mode == Round::zero   ? std::trunc(x)
           : mode == Round::down ? std::floor(x)
           : mode == Round::up   ? std::ceil(x)
                                 : std::nearbyint(x);
}
template <class To, class From> inline To clamp_to(From x) { // float to integer: saturates; NaN as PTX says
    using L = std::numeric_limits<To>;
    if (std::isnan(x))
        return sizeof(From) == 8 || sizeof(To) == 8 ? static_cast<To>(u64(1) << (8 * sizeof(To) - 1)) : To(0);
    if (x <= static_cast<From>(L::min()))
        return L::min();
    return x >= static_cast<From>(L::max()) ? L::max() : static_cast<To>(x);
}
template <class To, class From> inline To convert(From source, Round mode) {
    const auto x = widen(source);
    using X = std::remove_const_t<decltype(x)>;
    constexpr bool to_int = std::is_integral_v<To>;
    if constexpr (std::is_integral_v<X> && to_int)
        return static_cast<To>(x);
    else if constexpr (to_int)
        return clamp_to<To>(to_integral(x, mode));
    else if constexpr (std::is_same_v<To, f16>)
        return f16{half_bits(x)};
    else if constexpr (std::is_same_v<To, bf16>)
        return bf16{bfloat_bits(static_cast<float>(x))};
    else
        return static_cast<To>(x);
}

// ---- Integers
// ----------------------------------------------------------------------------------------------------------
template <class T> inline T divide(T a, T b) {
    return b == 0 ? T(-1) : (std::is_signed_v<T> && b == T(-1) ? T(0 - a) : T(a / b));
}
template <class T> inline T remainder(T a, T b) {
    return b == 0 ? a : (std::is_signed_v<T> && b == T(-1) ? T(0) : T(a % b));
}
template <class T> inline T shift_left(T a, u32 n) { return n >= 8 * sizeof(T) ? T(0) : T(a << n); }
template <class T> inline T shift_right(T a, u32 n) {
    const u32 most = 8 * sizeof(T) - 1;
    return n > most ? (std::is_signed_v<T> ? T(a >> most) : T(0)) : T(a >> n);
}
template <class T> inline T high_product(T a, T b) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>(Wide(a) * Wide(b) >> 8 * sizeof(T));
}
inline u32 funnel_left(u32 low, u32 high, u32 n) { return static_cast<u32>((u64(high) << 32 | low) << n >> 32); }
inline u32 funnel_right(u32 low, u32 high, u32 n) { return static_cast<u32>((u64(high) << 32 | low) >> n); }
inline u32 permute(u32 a, u32 b, u32 selector) { // prmt, default mode
    const u64 bytes = u64(b) << 32 | a;
    u32 out = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 pick = selector >> 4 * i & 15;
        const u32 byte = bytes >> 8 * (pick & 7) & 255;
        out |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    return out;
}
inline u32 logic3(u32 a, u32 b, u32 c, u32 table) { // lop3
    u32 out = 0;
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1)
            out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return out;
}
template <class T> inline T field_extract(T a, u32 position, u32 length) { // bfe
    const u32 bits = 8 * sizeof(T);
    position &= 255, length &= 255;
    u64 out = 0;
    const u64 wide = static_cast<u64>(static_cast<s64>(a));
    const bool sign = std::is_signed_v<T> && length &&
                      (wide >> (position + length - 1 < bits ? position + length - 1 : bits - 1) & 1);
    for (u32 i = 0; i < bits; ++i)
        out |= u64(i < length && position + i < bits ? wide >> (position + i) & 1 : sign) << i;
    return static_cast<T>(out);
}
template <class T> inline T field_insert(T a, T b, u32 position, u32 length) { // bfi: a into b
    position &= 255, length &= 255;
    for (u32 i = 0; i < length && position + i < 8 * sizeof(T); ++i)
        b = static_cast<T>((b & ~(T(1) << (position + i))) | ((a >> i & 1) << (position + i)));
    return b;
}
inline u32 reverse_bits(u32 a) {
    u32 out = 0;
    for (int i = 0; i < 32; ++i)
        out |= (a >> i & 1) << (31 - i);
    return out;
}

// ---- Memory
// --------------------------------------------------------------------------------------------------------------
inline char* shared(u64 address) { return simt::shared_base() + static_cast<u32>(address); }
inline u64 shared_offset(const void* pointer) { return static_cast<const char*>(pointer) - simt::shared_base(); }
inline char* pointer(u64 address) { return reinterpret_cast<char*>(address); }
inline u64 address(const void* p) { return reinterpret_cast<u64>(p); }
template <class T, class R> inline void fetch(R& target, const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    set(target, value);
}
template <class T> inline void put(char* to, T value) { std::memcpy(to, &value, sizeof value); }

} // namespace ptx
