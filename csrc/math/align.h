// Alignments of pairs of token sequences, as every back end receives them.
#pragma once

#include "kernel.h"
#include "philox.h"

namespace pfk {

// x0 (rows, n0) and x1 (rows, n1), of which a row's first lengths count; all tensors are dense. z0 and z1 are (rows, n0
// + n1) with kBlank between tokens and behind the last pair.
struct Align {
    int64_t rows, n0, n1;
    const int64_t *x0, *x1, *lengths0, *lengths1, *keys;
    int64_t *z0, *z1, *distance;
};

constexpr int64_t kBlank = -1;

PFK_KERNEL(align, Align)

} // namespace pfk
