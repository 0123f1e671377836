// LipSwish with its slope, and one call of the op as the CPU receives it.
#pragma once

#include "activation.h"
#include "kernel.h"

namespace pfk {

// f(x) = x s(beta x) / 1.1 with the logistic function s; f' is its slope in x. Chen et al. 2019, arXiv:1906.02735.
template <class A> struct LipSwishAt {
    A value, slope;
};
template <class A> PFK_HD LipSwishAt<A> lipswish_at(A x, A beta) {
    const A s = gate(beta * x), part = s / A(1.1), value = x * part;
    return {value, part + beta * value * (A(1) - s)};
}

// Gradients in x and beta of dvalue f + dslope f'.
template <class A> struct LipSwishGradient {
    A dx, dbeta;
};
template <class A> PFK_HD LipSwishGradient<A> lipswish_gradient(A x, A beta, A dvalue, A dslope) {
    const A t = beta * x, s = gate(t), part = s / A(1.1), rest = A(1) - s, steep = part * rest;
    const A bend = steep * (A(2) + t * (rest - s)) * dslope;
    return {dvalue * (part + t * steep) + beta * bend, x * (dvalue * x * steep + bend)};
}

// Rows are dense inside, `*_stride` counts elements from row to row.
struct LipSwish {
    DType type; // F32 or F64
    int64_t rows, size;
    const void *x, *beta; // beta: one number
    int64_t x_stride;
    void *value, *slope; // dense
    const void *dvalue, *dslope;
    int64_t dvalue_stride, dslope_stride;
    void *dx, *partial, *dbeta; // partial: (samples,), the rows' parts of dbeta
    int64_t samples;
};

PFK_KERNEL(lipswish, LipSwish)
PFK_KERNEL(lipswish_backward, LipSwish)
PFK_KERNEL(lipswish_total, LipSwish)

} // namespace pfk
