// The two halves of a Runge-Kutta step as every back end receives them: a state from the slopes so far, and the scaled
// norm of the error estimate. Slopes are tensors of their own; their number is known at compile time where it matters.
#pragma once

#include "host_device.h"

namespace pfk {

constexpr int kMostSlopes = 9;

// Slopes with their weights. Rows are dense inside; strides count elements from row to row.
struct Slopes {
    int count;
    const void* k[kMostSlopes];
    int64_t stride[kMostSlopes];
    double weight[kMostSlopes];
};

// out = y + h_b sum_j w_j k_j; steps are float, or double for double y.
struct RkCombine {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    const void *y, *h;
    int64_t y_stride, h_stride;
    void* out; // dense
};

// dstate = dy, dh_b = sum over the row of dy sum_j w_j k_j, dk_j = w_j h_b dy
struct RkCombineBackward {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    const void *dy, *h;
    int64_t dy_stride, h_stride;
    void *dstate, *dh; // dense, as are the dk
    void* dk[kMostSlopes];
};

// norm_b = root mean square over the row of h_b sum_j w_j k_j / (atol + rtol max(|y0|, |y1|))
struct RkError {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    double rtol, atol;
    const void *y0, *y1, *h;
    int64_t y0_stride, y1_stride, h_stride;
    void* norm; // dense, float or double
};

// sum_j w_j k_j; `at(j)` is slope j, widened.
template <int N, class A, class At> PFK_HD A weighted(const A* weights, At at) {
    A sum = weights[0] * at(0);
#ifdef __CUDA_ARCH__
#pragma unroll
#elif !defined(__CUDACC__)
#pragma GCC unroll 16
#endif
    for (int j = 1; j < N; ++j)
        sum += weights[j] * at(j);
    return sum;
}

template <class A> PFK_HD A larger_magnitude(A a, A b) {
    const A x = a < A(0) ? -a : a, y = b < A(0) ? -b : b;
    const A larger = x > y ? x : y;
    return x != x ? x : larger; // NaN stays
}

} // namespace pfk
