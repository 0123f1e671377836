// One call of attention as every back end receives it.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

// Rows of all heads, (events, number, heads, length, size), dense inside an event; `stride` counts elements from event
// to event. `number` is 1 for values, how many tangents they have for tangents, and 0 for what stands still.
struct Heads {
    void* data;
    int64_t stride, number, length, size;
};

// y = softmax(scale q k^T) v, lse the logarithm of the softmax's sum; their derivatives vy and vlse along `tangents`
// directions. The gradients `g` of all of them give those of q, k, v, vq, vk, vv.
struct Attention {
    DType type;  // of all but lse, vlse and their gradients, which are accumulators
    bool causal; // queries are the last of the tokens, and see none behind them
    double scale;
    int64_t rows; // of the launch: blocks of kQueries queries of a head, or heads where gradients sum over queries
    int64_t events, heads, tangents;
    Heads q, k, v, vq, vk, vv;
    const int64_t* mask; // (events, keys), 0 where a key takes no part; null: all do
    Heads y, lse, vy, vlse;
    Heads gy, glse, gvy, gvlse; // backward
    Heads gq, gk, gv, gvq, gvk, gvv;
};

constexpr int64_t kQueries = 64;

PFK_KERNEL(attention, Attention)
PFK_KERNEL(attention_backward, Attention)

} // namespace pfk
