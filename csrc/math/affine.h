// The formulas of affine coupling, once, for every back end: y = x e^s + t with s a bounded log-scale.
// Gradients come from the output: x e^s = y - t, so neither x nor a division is needed.
#pragma once

#include "elementary.h"

namespace pfk {

// Additive: no scale. None: s = raw. Tanh: s = limit tanh(raw / limit). Sigmoid: s = log sigmoid(raw + 2), as in Glow.
// Of MADE alone, for flows that were trained elsewhere: Softclip: s = raw / (1 + |raw| / limit). Softplus:
// s = log(softplus(raw) + limit). FlooredSigmoid: s = log(sigmoid(raw + 2) + limit).
enum class Bound : int { Additive, None, Tanh, Sigmoid, Softclip, Softplus, FlooredSigmoid };
constexpr int kBounds = 7, kCouplingBounds = 4;

// The largest limit of a tanh bound: up to it e^s needs no range checks.
constexpr double kLargestLimit = 80;

template <class A> struct Scale {
    A s;      // the log-scale of the forward map
    A factor; // e^s, or e^-s for the inverse
    A slope;  // ds / draw
};

template <bool Inverse, Bound K, class A> PFK_HD Scale<A> scale_of(A raw, A limit, A inverse_limit) {
    if (K == Bound::Tanh) {
        const A h = tanh(raw * inverse_limit), s = limit * h;
        return {s, exp_bounded(Inverse ? -s : s), A(1) - h * h};
    }
    if (K == Bound::Sigmoid) {
        const A u = raw + A(2), e = exp(-detail::magnitude(u));
        const A small = u < A(0) ? e : A(1); // sigmoid(u) = small / (1 + e)
        const A other = u < A(0) ? A(1) : e;
        return {(u < A(0) ? u : A(0)) - log1p_unit(e),
                Inverse ? detail::quotient(A(1) + e, small) : detail::quotient(small, A(1) + e),
                detail::quotient(other, A(1) + e)};
    }
    if (K == Bound::Softclip) {
        const A shrink = clip_factor(raw, inverse_limit), s = raw * shrink;
        return {s, exp_bounded(Inverse ? -s : s), shrink * shrink};
    }
    if (K == Bound::Softplus || K == Bound::FlooredSigmoid) {
        const A u = K == Bound::Softplus ? raw : raw + A(2);
        const A e = exp(-detail::magnitude(u)), over = detail::quotient(A(1), A(1) + e);
        const A gate = (u < A(0) ? e : A(1)) * over; // sigmoid(u)
        const A scale = limit + (K == Bound::Softplus ? (u < A(0) ? A(0) : u) + log1p_unit(e) : gate);
        const A slope = K == Bound::Softplus ? gate : gate * ((u < A(0) ? A(1) : e) * over);
        return {log(scale), Inverse ? A(1) / scale : scale, slope / scale};
    }
    if (K == Bound::None)
        return {raw, exp_flushed(Inverse ? -raw : raw), A(1)};
    return {A(0), A(1), A(0)};
}

// One element: returns y and leaves the log-scale in s (of the forward map, whichever direction runs).
template <bool Inverse, Bound K, class A> PFK_HD A affine(A x, A raw, A t, A limit, A inverse_limit, A& s) {
    const Scale<A> scale = scale_of<Inverse, K>(raw, limit, inverse_limit);
    s = scale.s;
    return Inverse ? (x - t) * scale.factor : x * scale.factor + t;
}

template <class A> struct AffineGradient {
    A x, raw, t;
};

// One element, from the output y of that direction, its gradient dy and the row's dladj.
template <bool Inverse, Bound K, class A>
PFK_HD AffineGradient<A> affine_gradient(A y, A raw, A t, A dy, A dladj, A limit, A inverse_limit) {
    const Scale<A> scale = scale_of<Inverse, K>(raw, limit, inverse_limit);
    const A dx = dy * scale.factor;
    if (Inverse)
        return {dx, (-dy * y - dladj) * scale.slope, -dx};
    return {dx, (dy * (y - t) + dladj) * scale.slope, dy};
}

} // namespace pfk
