// Smooth activations of deep networks with two derivatives, and one call of the op as the CPU receives it.
#pragma once

#include "activation.h"
#include "kernel.h"

namespace pfk {

enum class Smooth : int { Silu, GeluTanh };

template <class A> struct SmoothAt {
    A value, slope, bend;
};

// x s(z) with the logistic function s and a z of x. 1 - s is no difference, which would lose its digits beside 1.
template <class A> PFK_HD SmoothAt<A> gated(A x, A z, A dz, A ddz) {
    const A e = exp(-detail::magnitude(z)), q = detail::quotient(A(1), A(1) + e);
    const A s = z < A(0) ? e * q : q, rest = z < A(0) ? q : e * q, steep = s * rest;
    return {x * s, s + x * steep * dz, steep * (A(2) * dz + x * ((rest - s) * dz * dz + ddz))};
}

// x s(x). Elfwing, Uchibe, Doya 2018, arXiv:1702.03118.
template <class A> PFK_HD SmoothAt<A> silu_at(A x) { return gated(x, x, A(1), A(0)); }

// x (1 + tanh u) / 2 = x s(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). Hendrycks, Gimpel 2016, arXiv:1606.08415.
template <class A> PFK_HD SmoothAt<A> gelu_tanh_at(A x) {
    const A c = A(2 * 0.79788456080286535588), cubic = A(0.044715);
    const A near = x > A(30) ? A(30) : x < A(-30) ? A(-30) : x, square = near * near; // beyond, s is 0 or 1
    return gated(x, c * near * (A(1) + cubic * square), c * (A(1) + A(3) * cubic * square), A(6) * c * cubic * near);
}

// x (rows, size), its tangents (rows, tangents, size); rows are dense inside, `*_stride` counts elements from row to
// row.
struct ActivationTangents {
    DType type;
    Smooth kind;
    int64_t rows, tangents, size;
    const void *x, *v;
    int64_t x_stride, v_stride;
    void *y, *vy; // dense; backward: the gradients of x and v
    const void *gy, *gvy;
    int64_t gy_stride, gvy_stride;
};

PFK_KERNEL(activation_tangents, ActivationTangents)
PFK_KERNEL(activation_tangents_backward, ActivationTangents)

} // namespace pfk
