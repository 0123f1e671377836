// Normalised tokens, scaled and shifted by what their event says: the formulas, and one call as every back end receives
// it.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

// n = (x - mean) rate, with mean 0 where the norm is the root of the mean square.
template <class A> struct Moments {
    A mean, rate; // rate: 1 / sqrt(mean of squares + eps)
};
template <class A> PFK_HD A normalised(A x, Moments<A> m) { return (x - m.mean) * m.rate; }

// The Jacobian of the norm, rate (I - 1 1^T / C - n n^T / C), is symmetric: tangents and gradients pass it alike, v
// with the mean of v and of v n. Without the mean of the norm, that of v counts as 0.
template <class A> PFK_HD A through_norm(A v, A n, A rate, A mean, A along) { return rate * (v - mean - n * along); }

// Tokens of an event are dense, (tokens, size); `*_stride` counts elements from event to event.
struct ModulatedNorm {
    DType state, param; // param: of scale, shift, their tangents and gradients
    bool rms;
    double eps;
    int64_t rows; // of the launch: tokens, or events where it sums over tokens
    int64_t events, tokens, size;
    const void *x, *scale, *shift;
    int64_t x_stride, scale_stride, shift_stride;
    void* y; // dense

    int64_t tangents;                 // of each event
    bool moving;                      // whether scale and shift have tangents too
    const void *vx, *vscale, *vshift; // (events, tangents, tokens, size) and, twice, (events, tangents, size)
    int64_t vx_stride, vscale_stride, vshift_stride;
    void* vy; // as vx, dense

    const void* dy; // backward
    int64_t dy_stride;
    void *dx, *dscale, *dshift; // dense
    void* scratch;              // CUDA: modulated_norm_backward_scratch(...) accumulators
};

PFK_KERNEL(modulated_norm, ModulatedNorm)
PFK_KERNEL(modulated_norm_tangents, ModulatedNorm)
PFK_KERNEL(modulated_norm_backward, ModulatedNorm)
PFK_SCRATCH_OF(modulated_norm_backward, ModulatedNorm)

} // namespace pfk
