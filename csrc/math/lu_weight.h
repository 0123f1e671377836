// One call of lu_weight, as every back end receives it.
#pragma once

#include "elementary.h"
#include "kernel.h"

namespace pfk {

// A batch of matrices in one tensor each: below the diagonal L (its diagonal is 1), above it U, on it log |diagonal of
// the upper factor|; W[i] = (L U)[permutation[i]]. Everything but lu is of lu's accumulator type. Work is in double.
struct LuWeight {
    DType type;
    int64_t rows, size; // matrices; of one side
    const void* lu;
    int64_t lu_stride;
    const int64_t *permutation, *signs; // (rows, size), dense
    bool inverse;
    void *weight, *terms; // dense
    double* scratch;      // rows * 2 size^2
};

struct LuWeightBackward {
    DType type;
    int64_t rows, size;
    const void* lu;
    int64_t lu_stride;
    const int64_t *permutation, *signs;
    bool inverse;
    const void *weight, *dweight, *dterms; // weight: what the forward made
    int64_t weight_stride, dweight_stride, dterms_stride;
    void* dlu;       // dense, of lu's type
    double* scratch; // rows * 4 size^2
};

// The diagonal of the upper factor.
PFK_HD double pivot_of(double log_magnitude, int64_t sign) {
    return sign < 0 ? -exp(log_magnitude) : exp(log_magnitude);
}

PFK_KERNEL(lu_weight, LuWeight)
PFK_KERNEL(lu_weight_backward, LuWeightBackward)

} // namespace pfk
