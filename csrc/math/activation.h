// Activations of narrow networks and their slopes, once, for every back end.
#pragma once

#include "elementary.h"

namespace pfk {

enum class Activation : int { Relu, Tanh, Silu, Elu, LeakyRelu, Selu };
constexpr int kActivations = 6;

// 1 / (1 + e^-x) by the card's short division: a network's gate needs no last bit.
template <class A> PFK_HD A gate(A x) {
    const A e = exp(-detail::magnitude(x));
    return detail::quotient(x < A(0) ? e : A(1), A(1) + e);
}

// The value at `pre`, and the slope there.
template <Activation K, class A> PFK_HD A activate(A pre) {
    if (K == Activation::Relu)
        return pre < A(0) ? A(0) : pre; // NaN stays
    if (K == Activation::Tanh)
        return tanh(pre);
    if (K == Activation::Silu)
        return pre * gate(pre);
    if (K == Activation::LeakyRelu)
        return pre < A(0) ? pre * A(0.01) : pre;
    const A below = exp(pre < A(0) ? pre : A(0)) - A(1);
    if (K == Activation::Elu)
        return pre < A(0) ? below : pre;
    return A(1.0507009873554804934193349852946) * (pre < A(0) ? A(1.6732632423543772848170429916717) * below : pre);
}

template <Activation K, class A> PFK_HD A activation_slope(A pre) {
    if (K == Activation::Relu)
        return pre > A(0) ? A(1) : A(0);
    if (K == Activation::Tanh) {
        const A h = tanh(pre);
        return A(1) - h * h;
    }
    if (K == Activation::Silu) {
        const A s = gate(pre);
        return s + pre * s * (A(1) - s);
    }
    if (K == Activation::LeakyRelu)
        return pre > A(0) ? A(1) : A(0.01);
    const A below = exp(pre < A(0) ? pre : A(0));
    if (K == Activation::Elu)
        return pre > A(0) ? A(1) : below;
    return A(1.0507009873554804934193349852946) * (pre > A(0) ? A(1) : A(1.6732632423543772848170429916717) * below);
}

// Calls body(constant of the kind).
template <Activation Value> struct ActivationKind {
    static constexpr Activation value = Value;
};

template <class Body> PFK_HD void with_activation(Activation kind, Body body) {
    switch (kind) {
    case Activation::Relu:
        return body(ActivationKind<Activation::Relu>{});
    case Activation::Tanh:
        return body(ActivationKind<Activation::Tanh>{});
    case Activation::Silu:
        return body(ActivationKind<Activation::Silu>{});
    case Activation::Elu:
        return body(ActivationKind<Activation::Elu>{});
    case Activation::LeakyRelu:
        return body(ActivationKind<Activation::LeakyRelu>{});
    case Activation::Selu:
        return body(ActivationKind<Activation::Selu>{});
    }
}

} // namespace pfk
