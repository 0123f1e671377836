// What a token costs under its logits, and the gradient, as every back end receives them.
#pragma once

#include "kernel.h"
#include "softmax.h"

namespace pfk {

// Token i of row b has logits (size,) at logits + b * logits_stride + i * size. `rows` counts tokens, all rows'.
struct DiscreteLoss {
    DType type;
    int64_t rows, places, size;
    const void* logits;
    int64_t logits_stride;
    const int64_t *x_t, *x1; // dense
    bool elbo;
    int64_t mask; // negative: none
    void* loss;   // dense
    void* sums;   // kSums a token
    int64_t sums_stride;

    const void* dloss; // backward
    int64_t dloss_stride;
    void* dlogits; // the logits themselves, in place
    int64_t dlogits_stride;

    // Of token `index` the first of `width` elements, in rows `stride` apart; no division where these are dense.
    PFK_HD_MEMBER int64_t at(int64_t index, int64_t stride, int64_t width) const {
        if (stride == places * width)
            return index * width;
        const int64_t row = index / places;
        return row * stride + (index - row * places) * width;
    }
};

// What of a token's softmax the gradient is told: the maximum, and the sum of the exponentials less that, without that
// of the token's own symbol where the bound is asked for, which stands behind it: 1 - p is without a difference then.
constexpr int64_t kSums = 3;

// One token: loss = ce (log sum - score of x1) + either p(x_t)'s share of the bound.
struct Cost {
    bool counted, bound, ce;

    PFK_HD Cost of(const DiscreteLoss& p, int64_t index) {
        const int64_t now = p.x_t[index], data = p.x1[index];
        const bool bound = p.elbo && p.mask < 0;
        return {data >= 0 && (p.mask < 0 || now == p.mask), bound, !bound || now != data};
    }
};

PFK_KERNEL(discrete_loss, DiscreteLoss)
PFK_KERNEL(discrete_loss_backward, DiscreteLoss)

} // namespace pfk
