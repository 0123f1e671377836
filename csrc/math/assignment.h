// One call of assignment, as every back end receives it.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

// Problems of `size` rows and as many columns. With dims > 0, x0 and x1 (rows, size, dims) are points and costs their
// squared distances; with dims = 0, x0 (rows, size, size) holds the costs. Arithmetic is double.
struct Assignment {
    DType type;
    int64_t rows, size, dims;
    const void *x0, *x1;
    int64_t x0_stride, x1_stride;
    int64_t* columns;                   // (rows, size), dense, as all results: the column of each row
    double* total;                      // (rows,): what the pairs cost together
    double *row_prices, *column_prices; // (rows, size): no pair costs less than its two prices, and chosen ones as much
    // scratch memory of CUDA, dense: costs (rows, size, size) of points, distances (rows, size), marks (rows, 3, size)
    double *costs, *distances;
    int* marks;
};

// Larger costs could overflow on the way. A problem that has some, or NaN, gets the identity, and NaN for the rest.
constexpr double kLargestCost = 1e300;

PFK_KERNEL(assignment, Assignment)

} // namespace pfk
