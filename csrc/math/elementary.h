// exp, expm1, log, log1p, tanh, sigmoid, sin and cos: branch-free, so that a plain loop over them vectorises; within 2
// ulp; NaN gives NaN and infinities their limits. Polynomials: Chebyshev interpolation of the remainders on the reduced
// interval. Built without -ffast-math on purpose: linking that would flush subnormals to zero in the whole process.
#pragma once

#include "host_device.h"

namespace pfk {
namespace detail {

#ifdef __CUDA_ARCH__
// On the card CUDA's exp, and its float tanh, are as exact and half as long: the exponential is one instruction there.
PFK_HD float card_exp(float x) { return ::expf(x); }
PFK_HD double card_exp(double x) { return ::exp(x); }
#endif

// a / b for normal b up to 2^126: within 2 ulp on the card, where an exact division is ten instructions and a branch.
PFK_HD float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fdividef(a, b);
#else
    return a / b;
#endif
}
PFK_HD double quotient(double a, double b) { return a / b; }

template <class A> struct Real;

template <> struct Real<float> {
    using Int = int32_t;
    static constexpr int mantissa_bits = 23;
    static constexpr Int bias = 127;
    static constexpr Int sqrt_half = 0x3f3504f3;
    static constexpr float log2e = 1.44269504f, ln2_high = 0.693145752f, ln2_low = 1.42860677e-06f;
    static constexpr float round_magic = 12582912.f; // 1.5 * 2^23: adding it rounds to an integer
    static constexpr float exp_min = -104.f, exp_max = 88.7228394f, exp_flushed_min = -87.f, tiny = 1.17549435e-38f,
                           two_to_mantissa = 16777216.f;
    static constexpr int two_to_mantissa_exponent = 24;
    // (expm1(r) - r) / r^2 on |r| <= ln2 / 2; relative error 5e-10
    PFK_HD float expm1_tail(float r) {
        return ((((1.9890991e-4f * r + 1.39336500e-3f) * r + 8.33331093e-3f) * r + 4.16664649e-2f) * r + 0.166666667f) *
                   r +
               0.5f;
    }
    // (2 atanh(s) - 2 s) / s^3 as a polynomial in w = s^2 on s <= (sqrt 2 - 1) / (sqrt 2 + 1); relative error 2e-11
    PFK_HD float log_tail(float w) { return ((0.233306967f * w + 0.285508124f) * w + 0.400001219f) * w + 0.666666666f; }
    // pi / 2 in three parts, of which the first two times a small integer are exact
    static constexpr float two_over_pi = 0.636619772f, quarter_high = 1.5703125f,
                           quarter_middle = 4.837512969970703e-4f, quarter_low = 7.54978995e-8f;
    // (sin r - r) / r^3 and (cos r - 1 + w / 2) / w^2 in w = r^2 on |r| <= pi / 4; errors 2e-8 and 2e-9
    PFK_HD float sin_tail(float w) { return (-1.95878909e-4f * w + 8.33274827e-3f) * w - 0.166666647f; }
    PFK_HD float cos_tail(float w) { return (2.45479421e-5f * w - 1.38883030e-3f) * w + 4.16666647e-2f; }
    // the same on s <= 1/3; relative error 4e-10
    PFK_HD float log1p_tail(float w) {
        return (((0.232249218f * w + 0.217064610f) * w + 0.285923648f) * w + 0.399997062f) * w + 0.666666673f;
    }
};

template <> struct Real<double> {
    using Int = int64_t;
    static constexpr int mantissa_bits = 52;
    static constexpr Int bias = 1023;
    static constexpr Int sqrt_half = 0x3fe6a09e667f3bcd;
    static constexpr double log2e = 1.4426950408889634, ln2_high = 0.693147180369123816490,
                            ln2_low = 1.90821492927058770002e-10;
    static constexpr double round_magic = 6755399441055744.0; // 1.5 * 2^52
    static constexpr double exp_min = -746.0, exp_max = 709.782712893384, exp_flushed_min = -708.0,
                            tiny = 2.2250738585072014e-308, two_to_mantissa = 9007199254740992.0;
    static constexpr int two_to_mantissa_exponent = 53;
    // relative error 5e-19
    PFK_HD double expm1_tail(double r) {
        double p = 2.0914686968086877e-9;
        p = p * r + 2.5105217004720745e-8;
        p = p * r + 2.7557273643110295e-7;
        p = p * r + 2.7557255400206424e-6;
        p = p * r + 2.4801587325547741e-5;
        p = p * r + 1.9841269874820625e-4;
        p = p * r + 1.3888888888883748e-3;
        p = p * r + 8.3333333333261351e-3;
        p = p * r + 4.166666666666667e-2;
        p = p * r + 0.16666666666666671;
        return p * r + 0.5;
    }
    // relative error 3e-20
    PFK_HD double log_tail(double w) {
        double p = 0.13086907887965027;
        p = p * w + 0.13268746195596595;
        p = p * w + 0.15386240708969664;
        p = p * w + 0.18181795621632782;
        p = p * w + 0.22222222391887066;
        p = p * w + 0.28571428570802848;
        p = p * w + 0.40000000000000878;
        return p * w + 0.66666666666666666;
    }
    static constexpr double two_over_pi = 0.63661977236758134308, quarter_high = 1.570796325802803039550781,
                            quarter_middle = 9.920935791635221434603409e-10, quarter_low = 5.1701829817941055689e-19;
    // errors 1e-20 and 6e-22
    PFK_HD double sin_tail(double w) {
        double p = -7.58669711770691798e-13;
        p = p * w + 1.60585316189861468e-10;
        p = p * w - 2.50521062324475773e-8;
        p = p * w + 2.75573192193391665e-6;
        p = p * w - 1.98412698412650649e-4;
        p = p * w + 8.33333333333333149e-3;
        return p * w - 0.166666666666666667;
    }
    PFK_HD double cos_tail(double w) {
        double p = 4.74587190204329154e-14;
        p = p * w - 1.14704608876099591e-11;
        p = p * w + 2.08767557910804238e-9;
        p = p * w - 2.75573192214028244e-7;
        p = p * w + 2.48015873015846464e-5;
        p = p * w - 1.38888888888888879e-3;
        return p * w + 4.16666666666666667e-2;
    }
    // relative error 5e-18
    PFK_HD double log1p_tail(double w) {
        double p = 0.16164938169471339;
        p = p * w + 8.8003176508687735e-2;
        p = p * w + 0.12001155182857779;
        p = p * w + 0.13314135550881163;
        p = p * w + 0.15385570592912244;
        p = p * w + 0.18181789417326448;
        p = p * w + 0.22222222717801782;
        p = p * w + 0.28571428567105061;
        p = p * w + 0.40000000000014597;
        return p * w + 0.66666666666666659;
    }
};

template <class To, class From> PFK_HD To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "bits: sizes differ");
    To out;
    __builtin_memcpy(&out, &value, sizeof(To));
    return out;
}

// |n| < 2^21; unlike a conversion it vectorises for 64-bit integers too.
template <class A> PFK_HD A from_small_int(typename Real<A>::Int n) {
    using R = Real<A>;
    return bits<A>(n + bits<typename R::Int>(R::round_magic)) - R::round_magic;
}

template <class A> PFK_HD A power_of_two(typename Real<A>::Int n) {
    return bits<A>((n + Real<A>::bias) << Real<A>::mantissa_bits);
}

// The smaller of two, x if it is NaN: in this form one instruction.
template <class A> PFK_HD A smaller(A x, A limit) { return limit < x ? limit : x; }

PFK_HD float magnitude(float x) { return __builtin_fabsf(x); }
PFK_HD double magnitude(double x) { return __builtin_fabs(x); }
PFK_HD float whole(float x) { return __builtin_floorf(x); }
PFK_HD double whole(double x) { return __builtin_floor(x); }
PFK_HD float root_of(float x) { return __builtin_sqrtf(x); }
PFK_HD double root_of(double x) { return __builtin_sqrt(x); }
PFK_HD float with_sign(float x, float sign) { return __builtin_copysignf(x, sign); }
PFK_HD double with_sign(double x, double sign) { return __builtin_copysign(x, sign); }

// x = n ln 2 + r: returns r and leaves n, for |n| within the exponents that exp can meet.
template <class A> PFK_HD A reduce(A x, typename Real<A>::Int& n) {
    using R = Real<A>;
    const A shifted = x * R::log2e + R::round_magic;
    const A whole = shifted - R::round_magic;
    n = bits<typename R::Int>(shifted) - bits<typename R::Int>(R::round_magic);
    return (x - whole * R::ln2_high) - whole * R::ln2_low;
}

// What exp is: y, but 0 below `least` and infinity above the largest argument; chosen afterwards, so that the
// arithmetic may run into nonsense there.
template <class A> PFK_HD A in_range(A x, A y, A least) {
    y = x < least ? A(0) : y;
    return x > Real<A>::exp_max ? power_of_two<A>(Real<A>::bias + 1) : y;
}

} // namespace detail

// exp for |x| <= 80 and NaN: one step of scaling, no range checks.
template <class A> PFK_HD A exp_bounded(A x) {
#ifdef __CUDA_ARCH__
    return detail::card_exp(x);
#else
    typename detail::Real<A>::Int n;
    const A r = detail::reduce(x, n);
    return (detail::Real<A>::expm1_tail(r) * (r * r) + r + A(1)) * detail::power_of_two<A>(n);
#endif
}

template <class A> PFK_HD A exp(A x) {
#ifdef __CUDA_ARCH__
    return detail::card_exp(x);
#else
    using R = detail::Real<A>;
    typename R::Int n;
    const A r = detail::reduce(x, n);
    const A p = R::expm1_tail(r) * (r * r) + r + A(1);
    const typename R::Int half = n >> 1; // in two steps, so that overflow and subnormal results come out right
    return detail::in_range(x, p * detail::power_of_two<A>(half) * detail::power_of_two<A>(n - half), R::exp_min);
#endif
}

// exp that is zero below e^-87 (e^-708 in double) instead of subnormal: for factors, where that is zero anyway.
template <class A> PFK_HD A exp_flushed(A x) {
#ifdef __CUDA_ARCH__
    return detail::card_exp(x);
#else
    using R = detail::Real<A>;
    typename R::Int n;
    const A r = detail::reduce(x, n);
    const A y = (R::expm1_tail(r) * (r * r) + r + A(1)) * detail::power_of_two<A>(n - 1); // 2^127 may be met, 2^128 not
    return detail::in_range(x, y + y, R::exp_flushed_min);
#endif
}

template <class A> PFK_HD A tanh(A x) {
#ifdef __CUDA_ARCH__
    if constexpr (sizeof(A) == sizeof(float))
        return ::tanhf(x);
#endif
    // With q = e^(-2 |x|), tanh |x| is (1 - q) / (1 + q), 1 - q taken as -expm1 so that it is accurate next to zero. In
    // double that comes to 2.003 ulp; there 1 - 2 q / (1 + q) serves from 1/2 on.
    const A doubled = detail::smaller(A(2) * detail::magnitude(x), A(60)); // e^-60 is below half an ulp of one
    typename detail::Real<A>::Int n;
    const A r = detail::reduce(-doubled, n);
    const A p = detail::Real<A>::expm1_tail(r) * (r * r) + r;
    const A scale = detail::power_of_two<A>(n);
    const A q = scale * p + scale;
    const bool large = sizeof(A) == sizeof(double) && q < A(1) / A(3);
    const A quotient = (large ? q + q : (A(1) - scale) - scale * p) / ((A(1) + scale) + scale * p);
    return detail::with_sign(large ? A(1) - quotient : quotient, x);
}

// log of a normal number above zero, less `doublings` times log 2: no range checks.
template <class A> PFK_HD A log_normal(A x, typename detail::Real<A>::Int doublings = 0) {
    using R = detail::Real<A>;
    using Int = typename R::Int;
    // x = m 2^n with m in [sqrt(1/2), sqrt(2))
    const Int shifted = detail::bits<Int>(x) - R::sqrt_half;
    const Int n = shifted >> R::mantissa_bits;
    const A m = detail::bits<A>(detail::bits<Int>(x) - (n << R::mantissa_bits));
    const A f = m - A(1);
    const A s = f / (m + A(1));
    const A w = s * s;
    const A k = detail::from_small_int<A>(n - doublings);
    // log(1 + f) = f - s (f - w tail): the rounding of s only meets small terms
    return (f - s * (f - w * R::log_tail(w))) + k * R::ln2_low + k * R::ln2_high;
}

template <class A> PFK_HD A log(A x) {
    using R = detail::Real<A>;
    const bool subnormal = x < R::tiny;
    A y = log_normal(subnormal ? x * R::two_to_mantissa : x, subnormal ? R::two_to_mantissa_exponent : 0);
    const A infinity = detail::power_of_two<A>(R::bias + 1);
    y = x == infinity ? x : y;
    y = x == A(0) ? -infinity : y;
    return x >= A(0) ? y : static_cast<A>(__builtin_nan("")); // also for NaN
}

// log(1 + z) for z in [0, 1]: the series of log with nothing to split off.
template <class A> PFK_HD A log1p_unit(A z) {
    const A s = detail::quotient(z, z + A(2));
    const A w = s * s;
    return z - s * (z - w * detail::Real<A>::log1p_tail(w));
}

// Of a soft clip: u / (1 + |u| / limit) is u times this, and its slope the square of this.
template <class A> PFK_HD A clip_factor(A u, A over_limit) {
    return detail::quotient(A(1), A(1) + detail::magnitude(u * over_limit));
}

template <class A> struct SinCos {
    A sin, cos;
};

// At n quarters of a turn plus r, |r| <= pi / 4.
template <class A> PFK_HD SinCos<A> sin_cos_of(typename detail::Real<A>::Int n, A r) {
    using R = detail::Real<A>;
    const A w = r * r;
    const A sine = r + r * w * R::sin_tail(w), cosine = (A(1) - A(0.5) * w) + w * w * R::cos_tail(w);
    const A s = n & 1 ? cosine : sine, c = n & 1 ? sine : cosine;
    return {n & 2 ? -s : s, (n + 1) & 2 ? -c : c};
}

// Errors of an ulp of one up to |x| of some thousand (1e9 in double); from there on accuracy is lost, but never do
// they leave [-1, 1]. CUDA's own would keep a table in local memory for huge arguments.
template <class A> PFK_HD SinCos<A> sin_cos(A x) {
    using R = detail::Real<A>;
    const A shifted = x * R::two_over_pi + R::round_magic, whole = shifted - R::round_magic;
    A r = ((x - whole * R::quarter_high) - whole * R::quarter_middle) - whole * R::quarter_low;
    r = detail::smaller(r, A(0.79));
    r = r < A(-0.79) ? A(-0.79) : r;
    return sin_cos_of<A>(detail::bits<typename R::Int>(shifted) - detail::bits<typename R::Int>(R::round_magic), r);
}

template <class A> PFK_HD A sin(A x) { return sin_cos(x).sin; }
template <class A> PFK_HD A cos(A x) { return sin_cos(x).cos; }

template <class A> PFK_HD A sigmoid(A x) {
    const A e = exp(-detail::magnitude(x));
    const A sum = A(1) + e;
    const A y = (x < A(0) ? e : A(1)) / sum;
    const A reciprocal = x < A(0) ? A(1) - y : y;
    return y - y * reciprocal * (e - (sum - A(1))); // takes the rounding of the sum back
}

} // namespace pfk
