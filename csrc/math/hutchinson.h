// The two passes over random directions that Hutchinson's estimate needs, as every back end receives them.
#pragma once

#include "kernel.h"
#include "philox.h"

namespace pfk {

// images (rows, probes, size): a field's Jacobian times its directions e, which are made again from the keys.
struct Hutchinson {
    DType type;
    int64_t rows, probes, size;
    Random noise; // signs or normal numbers
    const int64_t* keys;
    const void* images;
    int64_t images_stride;
    void *divergence, *square; // means over the probes of e . image and |image|^2

    const void *ddivergence, *dsquare; // backward
    int64_t ddivergence_stride, dsquare_stride;
    void* out; // dimages
};

PFK_KERNEL(hutchinson, Hutchinson)
PFK_KERNEL(hutchinson_backward, Hutchinson)

} // namespace pfk
