// The spline of one element whose params stand in a column, `Pitch` apart, which serves as work space too.
#pragma once

#include "../math/spline.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

template <class A, int Pitch> struct Column {
    A* at;
    PFK_DEVICE A& operator[](int row) const { return at[row * Pitch]; }
    PFK_DEVICE Column from(int row) const { return {at + row * Pitch}; }
};

// Logits become weights e^(logit - largest); one over their sum.
template <class A, int Pitch>
PFK_DEVICE A weigh(bool clips, const SplineShape<A>& shape, Column<A, Pitch> logits, int bins) {
    A largest = logits[0], sum = 0;
#pragma unroll 4
    for (int k = 1; k < bins; ++k)
        largest = logits[k] > largest ? logits[k] : largest;
    largest = logit_of(clips, shape, largest); // a clip keeps the order
#pragma unroll 4
    for (int k = 0; k < bins; ++k) {
        const A weight = weight_of(logit_of(clips, shape, logits[k]), largest);
        logits[k] = weight;
        sum += weight;
    }
    return A(1) / sum;
}

// The bin of an element, and what its gradient wants to know again.
template <class A> struct Where {
    Found<A> found;
    Bin<A> bin;
    A raw0, raw1, width_over, height_over; // one over the sum of the weights
};

template <class A, int Pitch>
PFK_DEVICE Where<A> find(const Spline& spline, const SplineShape<A>& shape, Column<A, Pitch> params, bool by_height,
                         A folded) {
    const int bins = spline.bins;
    const Column<A, Pitch> widths = params, heights = params.from(bins), slopes = params.from(2 * bins);
    Where<A> w;
    const bool clips = spline.clips;
    w.width_over = weigh(clips, shape, widths, bins);
    w.height_over = weigh(clips, shape, heights, bins);
    const A scale = by_height ? shape.height_share * w.height_over : shape.width_share * w.width_over;
    const A floor = by_height ? shape.height_floor : shape.width_floor;
    A width_sum = 0, height_sum = 0, width_before = 0, height_before = 0;
    int index = 0;
#pragma unroll 4
    for (int k = 0; k < bins; ++k) {
        const A at = knot(shape.low, floor, scale, A(k), by_height ? height_sum : width_sum);
        if (k > 0 && folded >= at) {
            index = k;
            width_before = width_sum;
            height_before = height_sum;
        }
        width_sum += widths[k];
        height_sum += heights[k];
    }
    const auto raw_of = [&](int knot) {
        const int which = slope_of_knot(spline.tails, bins, knot);
        return which < 0 ? A(0) : slopes[which];
    };
    w.raw0 = raw_of(index);
    w.raw1 = raw_of(index + 1);
    w.found = {A(index),
               width_before,
               widths[index],
               height_before,
               heights[index],
               slope_of(clips, shape, w.raw0),
               slope_of(clips, shape, w.raw1)};
    w.bin = bin_of(shape, w.found, shape.width_share * w.width_over, shape.height_share * w.height_over);
    return w;
}

// The logits' weights become their gradients.
template <class A, int Pitch>
PFK_DEVICE void spread(Column<A, Pitch> weights, int bins, A index, const LogitGradient<A>& gradient) {
#pragma unroll 4
    for (int k = 0; k < bins; ++k)
        weights[k] = gradient.at(A(k), index, weights[k]);
}

// x moved, or moved back; leaves the slope of the spline in `slope`.
template <class A, int Pitch>
PFK_DEVICE A move_by_spline(const Spline& spline, const SplineShape<A>& shape, Column<A, Pitch> params, A x, A& slope) {
    const A folded = fold(shape, spline.tails, x);
    const Where<A> w = find(spline, shape, params, spline.inverse, folded);
    return pfk::spline(spline.inverse, spline.tails, shape, w.bin, x, folded, slope);
}

// The gradient of what went in, at the spline's argument u; the params become their gradients. `given` (k) tells logit
// k again.
template <class A, int Pitch, class Given>
PFK_DEVICE A gradient_by_spline(const Spline& spline, const SplineShape<A>& shape, Column<A, Pitch> params, Given given,
                                A u, A dy, A dladj) {
    const int bins = spline.bins;
    const A folded = fold(shape, spline.tails, u);
    const Where<A> w = find(spline, shape, params, false, folded);
    const SplineGradient<A> g =
        spline_gradient(spline.inverse, spline.tails, spline.clips, shape, w.bin, w.raw0, w.raw1, u, folded, dy, dladj);
    spread(params, bins, w.found.index,
           LogitGradient<A>::of(g.left, g.width, w.found.width_before, w.found.width_own, shape.width_share,
                                w.width_over));
    spread(params.from(bins), bins, w.found.index,
           LogitGradient<A>::of(g.bottom, g.height, w.found.height_before, w.found.height_own, shape.height_share,
                                w.height_over));
    for (int k = 0; spline.clips && k < 2 * bins; ++k)
        params[k] *= logit_slope(shape, given(k));
    const int index = static_cast<int>(w.found.index), slopes = free_slopes(spline.tails, bins);
    const int first = slope_of_knot(spline.tails, bins, index), second = slope_of_knot(spline.tails, bins, index + 1);
    for (int j = 0; j < slopes; ++j)
        params[2 * bins + j] = (j == first ? g.raw0 : A(0)) + (j == second ? g.raw1 : A(0));
    return g.x;
}

} // namespace
} // namespace pfk::cuda
