// One call of affine_coupling, as every back end receives it: plain numbers and pointers.
#pragma once

#include "affine.h"
#include "kernel.h"
#include "mask.h"

namespace pfk {

// Rows are dense inside; `*_stride` counts elements from row to row. Log-determinants are dense.
struct AffineCoupling {
    Event event;
    Bound bound;
    bool inverse;
    double limit;
    DType state, param;             // of x, y, dx, dy; of params, dparams
    int64_t rows, size, param_size; // elements of one row of x and of params
    const void *x, *params;
    int64_t x_stride, params_stride;
    void* y; // may be x
    int64_t y_stride;
    void* ladj;              // float, or double for double x
    void* scratch = nullptr; // CUDA: affine_coupling_scratch(...) accumulators
};

struct AffineCouplingBackward {
    Event event;
    Bound bound;
    bool inverse;
    double limit;
    DType state, param;
    int64_t rows, size, param_size;
    const void *y, *params, *dy, *dladj;
    int64_t y_stride, params_stride, dy_stride, dladj_stride;
    void *dx, *dparams; // dense
};

PFK_KERNEL(affine_coupling, AffineCoupling)
PFK_SCRATCH_OF(affine_coupling, AffineCoupling)
PFK_KERNEL(affine_coupling_backward, AffineCouplingBackward)

} // namespace pfk
