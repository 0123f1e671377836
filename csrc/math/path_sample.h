// A sample of an affine path and its gradient, as every back end receives them.
#pragma once

#include "kernel.h"
#include "philox.h"

namespace pfk {

// x_t = alpha x1 + sigma x0 and target = alpha' x1 + sigma' x0, the coefficients one a row. x0 is null where it is
// drawn: normal numbers of the row's key. Rows are dense inside, strides count elements from row to row.
struct PathSample {
    DType type;
    int64_t rows, size;
    const void *x1, *x0;
    int64_t x1_stride, x0_stride;
    const int64_t* keys;
    const void* coefficients[4]; // alpha, sigma, alpha', sigma'
    int64_t coefficient_stride[4];
    void *x_t, *target; // dense

    const void *dx_t, *dtarget; // backward
    int64_t dx_t_stride, dtarget_stride;
    void *dx1, *dx0; // dense; dx0 null where x0 is
    void* dcoefficients[4];
};

template <class A> struct Coefficients {
    A alpha, sigma, alpha_rate, sigma_rate;

    PFK_HD Coefficients of(const PathSample& p, int64_t row) {
        const auto at = [&](int k) { return static_cast<const A*>(p.coefficients[k])[row * p.coefficient_stride[k]]; };
        return {at(0), at(1), at(2), at(3)};
    }
    PFK_HD_MEMBER A mixed(A data, A noise) const { return alpha * data + sigma * noise; }
    PFK_HD_MEMBER A moved(A data, A noise) const { return alpha_rate * data + sigma_rate * noise; }
    // what reaches data and noise of gradients of the two
    PFK_HD_MEMBER A of_data(A mixed, A moved) const { return alpha * mixed + alpha_rate * moved; }
    PFK_HD_MEMBER A of_noise(A mixed, A moved) const { return sigma * mixed + sigma_rate * moved; }
};

PFK_KERNEL(path_sample, PathSample)
PFK_KERNEL(path_sample_backward, PathSample)

} // namespace pfk
