// Sums of exponentials of distances, and the forces that they weigh, as every back end receives them.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

// y (rows, size) and x (others, size) lie at t = |y_i - x_j| or, with `squares`, t^2; y_i is x_{i + own}, if that is
// one of x, and does not meet itself. rates (count,) are below 0. The first `data` of x are one side, the rest another.
// `apart` are known distances, (rows, others); where it is null they are found from the points.
struct DriftSums {
    DType type;
    int64_t rows, others, size, count, own, data;
    bool squares;
    const void *y, *x;
    int64_t y_stride, x_stride;
    const double* rates;
    const void* apart;
    int64_t apart_stride;
    bool turned;  // they are (others, rows)
    void* found;  // null, or where the distances are kept, dense
    void* logs;   // (rows, 2, count): log sum_j exp(rate t_ij) over each side, -inf where there is nobody
    void* totals; // (rows,): sum_j t_ij
};

PFK_KERNEL(drift_sums, DriftSums)

// x are `data` points, which attract, and then those that repel, by weights w_ij = exp(rate t_ij - left_i - right_j).
struct Drift {
    DType type;
    int64_t rows, others, size, count, own, data;
    bool squares;
    const void *y, *x;
    int64_t y_stride, x_stride;
    const double* rates;
    const void* apart;
    int64_t apart_stride;
    bool turned;
    const void *left, *right; // (rows, count), (others, count)
    int64_t left_stride, right_stride;
    void* forces; // (count, rows, size)
};

PFK_KERNEL(drift, Drift)

} // namespace pfk
