// For each source the target with the largest <x0, x1> + height, as every back end receives it.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

// x0 (rows, size), x1 (targets, size), heights (targets,) as wide as the arithmetic. Of equal targets the first.
struct Nearest {
    DType type;
    int64_t rows, targets, size;
    const void *x0, *x1, *heights;
    int64_t x0_stride, x1_stride, heights_stride;
    int64_t* index; // (rows,)
    void* value;    // (rows,), the largest
};

PFK_KERNEL(nearest, Nearest)

} // namespace pfk
