// One call of rq_spline, as every back end receives it: plain numbers and pointers.
#pragma once

#include "kernel.h"
#include "mask.h"
#include "spline.h"

namespace pfk {

// Rows are dense inside; `*_stride` counts elements from row to row. Log-determinants are dense.
struct RqSpline {
    Event event;
    Spline spline;
    DType state, param;             // of x, y, dx, dy; of params, dparams
    int64_t rows, size, param_size; // elements of one row of x and of params
    const void *x, *params;
    int64_t x_stride, params_stride;
    void *y, *ladj;          // dense; ladj: float, or double for double x
    void* scratch = nullptr; // CUDA: rq_spline_scratch(...) accumulators
};

struct RqSplineBackward {
    Event event;
    Spline spline;
    DType state, param;
    int64_t rows, size, param_size;
    const void *u, *params, *dy, *dladj; // u: the spline's argument, x of the forward map and y of the inverse
    int64_t u_stride, params_stride, dy_stride, dladj_stride;
    void *dx, *dparams; // dense
};

PFK_KERNEL(rq_spline, RqSpline)
PFK_SCRATCH_OF(rq_spline, RqSpline)
PFK_KERNEL(rq_spline_backward, RqSplineBackward)

} // namespace pfk
