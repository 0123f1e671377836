// One call of random_numbers, as every back end receives it.
#pragma once

#include "kernel.h"
#include "philox.h"

namespace pfk {

// out (rows, draws, size), dense: place i of draw k of a row depends on the row's key, k and i alone.
struct RandomNumbers {
    DType type; // F32 or F64
    int64_t rows, draws, size;
    Random kind;
    const int64_t* keys;
    void* out;
};

PFK_KERNEL(random_numbers, RandomNumbers)

} // namespace pfk
