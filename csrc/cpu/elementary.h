// The elementary functions over an array: the tests' way to csrc/math/elementary.h.
#pragma once

#include "../math/host_device.h"
#include "../math/kernel.h"

namespace pfk {

struct Elementary {
    int function; // 0 exp, 1 log, 2 tanh, 3 sigmoid, 4 sin, 5 cos
    DType type;   // F32 or F64
    int64_t rows;
    const void* x;
    void* y;
};

PFK_KERNEL(elementary, Elementary)

} // namespace pfk
