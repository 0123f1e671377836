// One call of conv1x1 and of the two halves of its weight gradient, as every back end receives them.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

// y[b, :, p] = W x[b, :, p] + bias; ladj[b] = positions * sum of terms. Weight, bias, terms and ladj are of x's
// accumulator type. Rows of x and y are dense inside; `*_stride` counts elements from row to row.
struct Conv1x1 {
    DType state;
    int64_t rows, channels, positions;
    const void* x;
    int64_t x_stride;
    const void *weight, *bias, *terms; // bias and terms may be null
    int64_t weight_stride, bias_stride, terms_stride;
    bool transposed; // y = W^T x: the gradient of x
    void *y, *ladj;  // dense
};

// partial[chunk] = dy x^T over that chunk's columns, and the sums of dy's rows behind it: channels * (channels + 1)
// accumulators each. Columns count the positions of all batch rows in a line; where the chunks end depends on nothing
// but the sizes.
struct Conv1x1Partial {
    DType state;
    int64_t rows; // chunks
    int64_t batch, channels, positions, chunk;
    const void *x, *dy;
    int64_t x_stride, dy_stride;
    void* partial;
};

// dweight and dbias from the chunks in order; dterms = positions * sum of dladj.
struct Conv1x1Reduce {
    DType state;
    int64_t rows; // channels
    int64_t batch, positions, chunks;
    const void *partial, *dladj;
    int64_t dladj_stride;
    void *dweight, *dbias, *dterms; // dbias may be null
};

PFK_HD int64_t partial_size(int64_t channels) { return channels * (channels + 1); }

PFK_KERNEL(conv1x1, Conv1x1)
PFK_KERNEL(conv1x1_partial, Conv1x1Partial)
PFK_KERNEL(conv1x1_reduce, Conv1x1Reduce)

} // namespace pfk
