// One call of made_forward, made_inverse or of their backwards, as every back end receives it, and how weights lie.
// CUDA has made_inverse, and made_solve for the gradient through it: all else there is products of dense matrices,
// which are torch's.
//
// Coordinates are numbered 0..D-1 in the order of the autoregression. A hidden unit of degree m sees coordinates below
// m and units of the layer before up to degree m; coordinate i is mapped with parameters that see units up to degree i.
// Units are sorted by degree, so that everything a unit may see is a prefix. Coordinates are cut into blocks of
// kMadeBlock; the rows of one layer and block form one matrix, packed in groups of kMadeRows rows (csrc/cpu/gemm.h)
// over the prefix that its last degree sees: what no unit of the block may see is not stored at all.
#pragma once

#include "activation.h"
#include "affine.h"
#include "kernel.h"
#include "spline.h"

namespace pfk {

constexpr int64_t kMadeBlock = 8, kMadeRows = 6;

// What a residual network adds: nothing, or to every second layer what stood two layers before, ahead of its
// activation. Linear: the output layer reads the last hidden layer without one. Bare: none of the layers that are added
// to has one, so that blocks read the sum as it is.
enum class Residual : int { None, Activated, Linear, Bare };
constexpr int kResiduals = 4;

// Whether a hidden layer goes on without an activation.
PFK_HD bool is_linear(Residual residual, int64_t layer, int64_t layers) {
    return residual == Residual::Linear ? layer == layers - 1 : residual == Residual::Bare && layer % 2 == 0;
}

// The plan: int64 numbers that say where everything is. Layer `layers` is the output layer.
struct MadePlan {
    int64_t features, layers, params; // D, hidden layers, parameters of a coordinate
    const int64_t* data;              // order (D), ends (layers, D), offsets (layers + 1), starts (blocks, layers + 1)

    PFK_HD_MEMBER int64_t blocks() const { return (features + kMadeBlock - 1) / kMadeBlock; }
    PFK_HD_MEMBER int64_t size() const { return features * (layers + 1) + layers + 1 + blocks() * (layers + 1); }
    // The feature that is coordinate i.
    PFK_HD_MEMBER int64_t order(int64_t i) const { return data[i]; }
    // The first unit of a layer among all hidden units and output rows.
    PFK_HD_MEMBER int64_t offset(int64_t layer) const { return data[features * (layers + 1) + layer]; }
    PFK_HD_MEMBER int64_t hidden() const { return offset(layers); }
    PFK_HD_MEMBER int64_t units() const { return hidden() + features * params; }
    // Rows of a layer up to this degree; none for degree -1.
    PFK_HD_MEMBER int64_t end(int64_t layer, int64_t degree) const {
        return degree < 0 ? 0 : layer == layers ? (degree + 1) * params : data[features * (layer + 1) + degree];
    }
    // Columns of a layer that a row of this degree sees.
    PFK_HD_MEMBER int64_t seen(int64_t layer, int64_t degree) const {
        return layer == 0 ? degree : end(layer - 1, degree);
    }
    // Columns of a layer that are known before coordinate `first` and its units are begun.
    PFK_HD_MEMBER int64_t known(int64_t layer, int64_t first) const {
        return layer == 0 ? first : end(layer - 1, first - 1);
    }
    // Where the matrix of a block begins in the packed weights, which open with the bias of every unit.
    PFK_HD_MEMBER int64_t start(int64_t block, int64_t layer) const {
        return data[features * (layers + 1) + layers + 1 + block * (layers + 1) + layer];
    }
    PFK_HD_MEMBER int64_t last_of(int64_t block) const {
        return (block + 1) * kMadeBlock < features ? (block + 1) * kMadeBlock - 1 : features - 1;
    }
};

// What moves a coordinate: a spline where it has bins, else an affine map.
struct MadeMap {
    Bound bound;
    double limit, inverse_limit; // of the bound
    Spline spline;

    PFK_HD_MEMBER int64_t params() const {
        return spline.bins > 0 ? spline.params() : bound == Bound::Additive ? 1 : 2;
    }
};

// Rows are dense inside; `*_stride` counts elements from row to row. Everything but x and y is dense.
struct Made {
    MadePlan plan;
    Activation activation;
    Residual residual;
    bool inverse;
    MadeMap map;
    DType state, param; // of x, shift, y; of weights
    int64_t rows;       // panels of samples
    int64_t samples, panel;
    const void* x;
    int64_t x_stride;
    const void* weights;
    int64_t weights_size;
    const void* shift; // (samples, shift_units) or null: added to the first so many units before their activation
    int64_t shift_stride, shift_units;
    void *y, *ladj;
    int64_t hidden;          // units of all hidden layers
    int device;              // CUDA: its number
    void* scratch = nullptr; // CUDA: made_scratch(...) accumulators
};

// From the data side x: the output of the inverse, the input of the forward.
struct MadeBackward {
    MadePlan plan;
    Activation activation;
    Residual residual;
    bool inverse;
    MadeMap map;
    DType state, param;
    int64_t rows, samples, panel;
    const void* x;
    int64_t x_stride;
    const void* weights;
    int64_t weights_size;
    const void* shift;
    int64_t shift_stride, shift_units;
    const void *dy, *dladj;
    int64_t dy_stride, dladj_stride;
    void *dx, *dshift;
    void* inputs; // (samples, D + hidden): coordinates and activations, for the gradient of the weights
    void* deltas; // (samples, units): the gradient of every unit before its activation, and of the output rows
    int64_t hidden;
};

// The gradient of the packed weights: a sum over samples in their order, whatever the threads.
struct MadeWeights {
    MadePlan plan;
    DType state, param;
    int64_t rows; // matrices: blocks * (layers + 1)
    int64_t samples;
    const void *inputs, *deltas;
    void* dweights;
};

// The linear system of the gradient through the inverse: g_i = dy_i + what the network's input i receives, where the
// parameters of coordinate i have the gradient rates g_i + terms. Coordinates and units are in the plan's order.
struct MadeSolve {
    MadePlan plan;
    Residual residual;
    DType state, param; // of all but weights; of weights
    int64_t samples;
    const void* dy;
    int64_t dy_stride;
    const void* slopes; // (samples, hidden): of the activations
    int64_t slopes_stride;
    const void *rates, *terms; // (samples, D params)
    int64_t rates_stride, terms_stride;
    const void* weights;
    void *g, *deltas; // (samples, D); (samples, units): the gradient of every unit before its activation, of the params
    int64_t hidden;
    int device;
    void* scratch = nullptr; // made_solve_scratch(...) accumulators
};

// Packed weights and their dense form: all biases, then every layer's matrix, row by row, zero where the mask forbids.
struct MadeDense {
    MadePlan plan;
    DType type;
    bool packs; // from dense to packed
    int64_t units;
    void *packed, *dense;
};

PFK_KERNEL(made, Made)
PFK_SCRATCH_OF(made, Made)
#if defined(PFK_ISA) || defined(PFK_BACKEND_CPU)
PFK_KERNEL(made_backward, MadeBackward)
PFK_KERNEL(made_weights, MadeWeights)
#else
PFK_KERNEL(made_solve, MadeSolve)
PFK_SCRATCH_OF(made_solve, MadeSolve)
PFK_KERNEL(made_dense, MadeDense)
#endif

} // namespace pfk
