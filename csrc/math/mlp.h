// One call of mlp or of its backward, as every back end receives it.
#pragma once

#include "activation.h"
#include "kernel.h"

namespace pfk {

constexpr int kMostHidden = 4, kMostLayers = kMostHidden + 1; // hidden layers, matrices
constexpr int64_t kMostUnits = 512;                           // of a layer, inputs and outputs included
constexpr int64_t kMlpTile = 48;                              // samples that go through the layers together
constexpr int64_t kMlpGroup = 4 * kMlpTile;                   // samples whose gradients of weights are summed together

// Layer l is a matrix (widths[l + 1], widths[l]) and a bias; every layer but the last is followed by the activation.
// Weights and biases may be of 16 bits beside floats; rows are dense inside, and `*_stride` counts elements from row to
// row.
struct Mlp {
    DType type, param; // of everything else; of weights, biases and their gradients
    Activation activation;
    int layers;
    int64_t widths[kMostLayers + 1];
    const void *weights[kMostLayers], *biases[kMostLayers];
    int64_t weight_strides[kMostLayers], bias_strides[kMostLayers];
    int64_t rows; // of what the launch is over: layers, tiles of samples, or groups of them
    int64_t samples;
    const void* x;
    int64_t x_stride;
    const void* shift; // (samples, widths[1]) or null: added to the first layer before its activation
    int64_t shift_stride;
    void *y, *kept;  // dense; kept: (samples, hidden units) before their activation, or null
    void* panels;    // mlp_panels(p) numbers: the matrices as the products read them, then the biases
    bool transposed; // for the backward products

    const void* dy;
    int64_t dy_stride;
    void* sums; // (groups, mlp_sums(p)): each group's part of the gradients of weights and biases, layer by layer
    void *dx, *dshift; // dense
    void *dweights[kMostLayers], *dbiases[kMostLayers];
};

constexpr int64_t mlp_padded(int64_t units) { return (units + 15) / 16 * 16; }
inline int64_t mlp_tiles(const Mlp& p) { return (p.samples + kMlpTile - 1) / kMlpTile; }
inline int64_t mlp_groups(const Mlp& p) { return (p.samples + kMlpGroup - 1) / kMlpGroup; }

inline int64_t mlp_hidden(const Mlp& p) {
    int64_t units = 0;
    for (int l = 1; l < p.layers; ++l)
        units += p.widths[l];
    return units;
}

inline int64_t mlp_sums(const Mlp& p, int layer) { return p.widths[layer + 1] * (mlp_padded(p.widths[layer]) + 1); }
inline int64_t mlp_sums(const Mlp& p) {
    int64_t size = 0;
    for (int l = 0; l < p.layers; ++l)
        size += mlp_sums(p, l);
    return size;
}

inline int64_t mlp_panels(const Mlp& p) {
    int64_t size = 0;
    for (int l = 0; l < p.layers; ++l)
        size +=
            p.transposed ? p.widths[l + 1] * mlp_padded(p.widths[l]) : (p.widths[l] + 1) * mlp_padded(p.widths[l + 1]);
    return size;
}

PFK_KERNEL(mlp_pack, Mlp)
PFK_KERNEL(mlp, Mlp)
PFK_KERNEL(mlp_backward, Mlp)
PFK_KERNEL(mlp_weights, Mlp)

} // namespace pfk
