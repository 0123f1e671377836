// The formulas of affine coupling, once, for every back end: y = x e^s + t with s a bounded log-scale.
// Gradients come from the output: x e^s = y - t, so neither x nor a division is needed.
#pragma once

#include "elementary.h"

namespace pfk {

// Additive: no scale. None: s = raw. Tanh: s = limit tanh(raw / limit). Sigmoid: s = log sigmoid(raw + 2), as in Glow.
enum class Bound : int { Additive, None, Tanh, Sigmoid };

template <class A> struct LogScale {
    A s;     // the log-scale
    A slope; // ds / draw
};

template <Bound K, class A> PFK_HD LogScale<A> log_scale(A raw, A limit, A inverse_limit) {
    if (K == Bound::Tanh) {
        const A h = tanh(raw * inverse_limit);
        return {limit * h, A(1) - h * h};
    }
    if (K == Bound::Sigmoid) {
        const A u = raw + A(2);
        const A e = exp(u < A(0) ? u : -u);
        return {(u < A(0) ? u : A(0)) - log1p_unit(e), (u < A(0) ? A(1) : e) / (A(1) + e)};
    }
    if (K == Bound::None)
        return {raw, A(1)};
    return {A(0), A(0)};
}

template <bool Inverse, Bound K, class A> PFK_HD A affine_scale(A s) {
    return K == Bound::Additive ? A(1) : exp(Inverse ? -s : s);
}

// One element: returns y and leaves the log-scale in s (of the forward map, whichever direction runs).
template <bool Inverse, Bound K, class A> PFK_HD A affine(A x, A raw, A t, A limit, A inverse_limit, A& s) {
    s = log_scale<K>(raw, limit, inverse_limit).s;
    const A scale = affine_scale<Inverse, K>(s);
    return Inverse ? (x - t) * scale : x * scale + t;
}

template <class A> struct AffineGradient {
    A x, raw, t;
};

// One element, from the output y of that direction, its gradient dy and the row's dladj.
template <bool Inverse, Bound K, class A>
PFK_HD AffineGradient<A> affine_gradient(A y, A raw, A t, A dy, A dladj, A limit, A inverse_limit) {
    const LogScale<A> scale = log_scale<K>(raw, limit, inverse_limit);
    const A dx = dy * affine_scale<Inverse, K>(scale.s);
    if (Inverse)
        return {dx, (-dy * y - dladj) * scale.slope, -dx};
    return {dx, (dy * (y - t) + dladj) * scale.slope, dy};
}

} // namespace pfk
