// One call of power_series, as every back end receives it.
#pragma once

#include "host_device.h"
#include "kernel.h"

namespace pfk {

constexpr int kMostFactors = 5;            // matrices of the Jacobian
constexpr int64_t kMostTerms = 1 << 16;    // of its series that a row may have
constexpr int64_t kPowerSeriesTile = 48;   // CPU: rows that go through all terms together
constexpr int64_t kPowerSeriesChunks = 64; // CPU: rows of the launch, each of which takes every 64th tile at most

// J^T v = W_0^T (s_0 o W_1^T (s_1 o ... v)), W_l (widths[l + 1], widths[l]) and s_l (samples, widths[l + 1]); the first
// and the last width are the size of a sample. Term k has the coefficient survival^-max(0, k - exact_terms). Rows of
// tensors are dense inside, and `*_stride` counts elements from row to row.
struct PowerSeries {
    DType type; // F32 or F64
    int factors;
    int64_t widths[kMostFactors + 1];
    const void* weights[kMostFactors];
    int64_t weight_strides[kMostFactors];
    const void* slopes[kMostFactors - 1];
    int64_t slope_strides[kMostFactors - 1];
    int64_t samples;
    const void* probe;
    int64_t probe_stride;
    const int64_t* reached; // (samples,): how many terms each has, of `terms` at most
    int64_t terms, exact_terms;
    double survival;
    void *value, *v; // (samples,) and (samples, size), dense

    int64_t rows;         // CPU, of what the launch is over: factors to pack, or chunks of tiles
    const int64_t* order; // CPU: samples by the terms they have, most first
    void* panels;         // CPU: power_series_panels(p) numbers, the matrices as the products read them
    void* space;          // CPU: power_series_space(p) numbers a chunk; else of the blocks that run at once
};

constexpr int64_t power_series_padded(int64_t units) { return (units + 15) / 16 * 16; }

inline int64_t power_series_panels(const PowerSeries& p) {
    int64_t size = 0;
    for (int l = 0; l < p.factors; ++l)
        size += p.widths[l + 1] * power_series_padded(p.widths[l]);
    return size;
}

// The widest of the layers between the factors.
inline int64_t power_series_hidden(const PowerSeries& p) {
    int64_t widest = 0;
    for (int l = 1; l < p.factors; ++l)
        widest = p.widths[l] > widest ? p.widths[l] : widest;
    return widest;
}

// From row to row of the CPU's buffers: no multiple of a large power of two, which would crowd into few cache sets.
constexpr int64_t power_series_step(int64_t units) { return power_series_padded(units) + 16; }

// w, v and the sum that the value is made of; then two hidden layers in turn.
inline int64_t power_series_space(const PowerSeries& p) {
    return kPowerSeriesTile * (3 * power_series_step(p.widths[0]) + 2 * power_series_step(power_series_hidden(p)));
}

PFK_KERNEL(power_series_pack, PowerSeries)
PFK_KERNEL(power_series, PowerSeries)
PFK_SCRATCH_OF(power_series, PowerSeries)

} // namespace pfk
