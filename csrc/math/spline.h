// The formulas of the monotone rational-quadratic spline, once, for every back end (Durkan et al. 2019).
//
// An interval is cut into K bins along both axes; a bin's size is a least share plus a softmax. In a bin of width w and
// height h, with s = h / w, t = (u - left) / w, r = 1 - t and end slopes d0, d1, the spline is
//     y = bottom + h (s t^2 + d0 t r) / den,   den = s (t^2 + r^2) + (d0 + d1) t r,
//     y' = s^2 num / den^2,                    num = d1 t^2 + 2 s t r + d0 r^2.
// Everything, the root of the inverse included, is written as sums of positive terms, so that nothing cancels.
//
// Slopes are a floor plus a softplus. Or logits and log-slopes are clipped softly, as in flows of zuko: logits at half
// the limit, so that sizes differ by a factor of e^limit at most.
#pragma once

#include "elementary.h"

namespace pfk {

// Outside the interval. Linear: the identity. Bounded: straight on with the slope of the end. Circular: f repeats.
enum class Tails : int { Linear, Bounded, Circular };

PFK_HD int free_slopes(Tails tails, int bins) { return bins - (tails == Tails::Linear) + (tails == Tails::Bounded); }

// Which of the free slopes, in the order of params, belongs to knot 0..bins; -1: it is 1.
PFK_HD int slope_of_knot(Tails tails, int bins, int knot) {
    if (tails == Tails::Linear)
        return knot == bins ? -1 : knot - 1;
    return tails == Tails::Circular && knot == bins ? 0 : knot;
}

// What one call fixes: bin k is `floor` + `share` softmax_k wide; a slope is slope_floor + softplus(raw +
// slope_offset), or e^raw after a soft clip.
template <class A> struct SplineShape {
    A low, high, width_floor, width_share, height_floor, height_share, slope_floor, slope_offset;
    A over_limit; // one over that of the soft clip; 0: there is none
};

// The largest limit: what it makes of sizes and slopes has a square in float.
constexpr double kLargestSoftclip = 30;

// What the spline is, apart from its params.
struct Spline {
    int bins;
    Tails tails;
    bool inverse, clips; // clips: softly, logits and log-slopes
    SplineShape<double> given;

    PFK_HD_MEMBER int params() const { return 2 * bins + free_slopes(tails, bins); } // of an element
    template <class A> PFK_HD_MEMBER SplineShape<A> shape() const {
        return {
            static_cast<A>(given.low),         static_cast<A>(given.high),         static_cast<A>(given.width_floor),
            static_cast<A>(given.width_share), static_cast<A>(given.height_floor), static_cast<A>(given.height_share),
            static_cast<A>(given.slope_floor), static_cast<A>(given.slope_offset), static_cast<A>(given.over_limit)};
    }
};

// The bin that an element fell into, by weights e^(logit - largest), of the bins before it and its own, and its slopes.
template <class A> struct Found {
    A index, width_before, width_own, height_before, height_own, d0, d1;
};

template <class A> struct Bin {
    A left, width, over_width, bottom, height, s, d0, d1;
};

template <class A> struct Point {
    A t, r; // position in the bin and 1 - t
};

// Where bin `index` begins. V: A, or several of them abreast.
template <class A, class V> PFK_HD V knot(A low, A floor, V scale, A index, V before) {
    return low + (floor * index + scale * before);
}

// A bin's weight against the largest. Below e^-80 it is e^-80, which no sum with the largest, 1, can tell from zero.
template <class A> PFK_HD A weight_of(A logit, A largest) {
    const A x = logit - largest;
    return exp_bounded(x < A(-80) ? A(-80) : x);
}

template <class A> PFK_HD A small_exp(A x) {
    return exp_bounded(-detail::smaller(detail::magnitude(x), A(80)));
} // e^-|x|

template <class A> PFK_HD A softplus(A x) { return (x > A(0) ? x : A(0)) + log1p_unit(small_exp(x)); }

template <class A> PFK_HD A logit_of(bool clips, const SplineShape<A>& shape, A raw) {
    return clips ? raw * clip_factor(raw, A(2) * shape.over_limit) : raw;
}

// d logit / d raw of one that is clipped
template <class A> PFK_HD A logit_slope(const SplineShape<A>& shape, A raw) {
    const A shrink = clip_factor(raw, A(2) * shape.over_limit);
    return shrink * shrink;
}

// A slope beyond a million is a million: no params make an infinity of it.
template <class A> PFK_HD A slope_of(bool clips, const SplineShape<A>& shape, A raw) {
    if (clips)
        return exp_bounded(raw * clip_factor(raw, shape.over_limit));
    return shape.slope_floor + softplus(detail::smaller(raw + shape.slope_offset, A(1e6)));
}

// d slope / d raw
template <class A> PFK_HD A slope_slope(bool clips, const SplineShape<A>& shape, A raw) {
    if (clips) {
        const A shrink = clip_factor(raw, shape.over_limit);
        return exp_bounded(raw * shrink) * (shrink * shrink);
    }
    const A x = raw + shape.slope_offset, e = small_exp(x);
    return x > A(1e6) ? A(0) : detail::quotient(x < A(0) ? e : A(1), A(1) + e);
}

// width_scale, height_scale: share over the sum of the weights.
template <class A>
PFK_HD Bin<A> bin_of(const SplineShape<A>& shape, const Found<A>& found, A width_scale, A height_scale) {
    const A width = shape.width_floor + width_scale * found.width_own;
    const A height = shape.height_floor + height_scale * found.height_own;
    const A over_width = A(1) / width;
    return {knot(shape.low, shape.width_floor, width_scale, found.index, found.width_before),
            width,
            over_width,
            knot(shape.low, shape.height_floor, height_scale, found.index, found.height_before),
            height,
            height * over_width,
            found.d0,
            found.d1};
}

template <class A> PFK_HD A unit(A x) { return x < A(0) ? A(0) : x > A(1) ? A(1) : x; } // NaN stays

// Where the spline is evaluated: the value clamped into the interval, or wrapped into it.
template <class A> PFK_HD A fold(const SplineShape<A>& shape, Tails tails, A x) {
    const A period = shape.high - shape.low;
    const A v = tails == Tails::Circular ? x - detail::whole((x - shape.low) / period) * period : x;
    return v < shape.low ? shape.low : v > shape.high ? shape.high : v;
}

template <class A> PFK_HD Point<A> position(const Bin<A>& bin, A u) {
    const A t = unit((u - bin.left) * bin.over_width);
    return {t, A(1) - t};
}

// The point at which the spline takes the value v.
template <class A> PFK_HD Point<A> root(const Bin<A>& bin, A v) {
    const A eta = unit((v - bin.bottom) / bin.height), rest = A(1) - eta;
    const A g = bin.d0 * rest - bin.d1 * eta;
    const bool rising = g >= A(0);
    const A q = detail::magnitude(g) + detail::root_of(g * g + A(4) * bin.s * bin.s * (eta * rest));
    const A other = A(2) * bin.s * (rising ? eta : rest);
    const A over_sum = A(1) / (q + other), near = other * over_sum, far = q * over_sum;
    return {rising ? near : far, rising ? far : near};
}

// Straight on beyond the upper end, the slope is that of the very end, where rounding must not put t below 1; the lower
// end is t = 0 as it is.
template <class A> PFK_HD Point<A> at_the_end(Tails tails, const SplineShape<A>& shape, A x, const Point<A>& p) {
    const bool beyond = (tails == Tails::Bounded) & (x > shape.high);
    return {beyond ? A(1) : p.t, beyond ? A(0) : p.r};
}

template <class A> PFK_HD A denominator(const Bin<A>& bin, const Point<A>& p) {
    return bin.s * (p.t * p.t + p.r * p.r) + (bin.d0 + bin.d1) * (p.t * p.r);
}
template <class A> PFK_HD A numerator(const Bin<A>& bin, const Point<A>& p) {
    return bin.d1 * (p.t * p.t) + A(2) * bin.s * (p.t * p.r) + bin.d0 * (p.r * p.r);
}

// One element: x moved by the spline or its inverse; leaves the slope of the spline in slope.
template <class A>
PFK_HD A spline(bool inverse, Tails tails, const SplineShape<A>& shape, const Bin<A>& bin, A x, A folded, A& slope) {
    const Point<A> p = at_the_end(tails, shape, x, inverse ? root(bin, folded) : position(bin, folded));
    const A over_den = A(1) / denominator(bin, p), ratio = bin.s * over_den;
    slope = ratio * numerator(bin, p) * ratio;
    const A y = inverse ? bin.left + bin.width * p.t
                        : bin.bottom + bin.height * ((bin.s * p.t * p.t + bin.d0 * (p.t * p.r)) * over_den);
    if (tails == Tails::Circular)
        return y + (x - folded);
    const bool outside = (x < shape.low) | (x > shape.high);
    if (tails == Tails::Bounded) // the ends are mapped to the ends
        return (outside ? folded : y) + (x - folded) * (inverse ? A(1) / slope : slope);
    slope = outside ? A(1) : slope;
    return outside ? x : y;
}

// Gradients by the bin and by x; the bins before it share `left` and `bottom`.
template <class A> struct SplineGradient {
    A x, left, width, bottom, height, raw0, raw1;
};

// One element, at the argument u of the spline, from the gradients dy of the output and dladj of the log-determinant.
// The inverse's are those of the spline with -dx in place of dy and -dladj in place of dladj (inverse function
// theorem).
template <class A>
PFK_HD SplineGradient<A> spline_gradient(bool inverse, Tails tails, bool clips, const SplineShape<A>& shape,
                                         const Bin<A>& bin, A raw0, A raw1, A u, A folded, A dy, A dladj) {
    const Point<A> p = at_the_end(tails, shape, u, position(bin, folded));
    const A tt = p.t * p.t, rr = p.r * p.r, tr = p.t * p.r;
    const A over_den = A(1) / denominator(bin, p), num = numerator(bin, p), over_num = A(1) / num;
    const A ratio = bin.s * over_den;
    const bool outside = tails != Tails::Circular && ((u < shape.low) | (u > shape.high));
    const bool still = tails == Tails::Linear && outside;
    const A slope = still ? A(1) : ratio * num * ratio;
    const A turn = A(2) * ((bin.d1 * p.t + bin.s * (p.r - p.t) - bin.d0 * p.r) * over_num -
                           (bin.d0 + bin.d1 - A(2) * bin.s) * (p.r - p.t) * over_den); // d log slope / dt
    const A bend = outside ? A(0) : turn;
    const A dx =
        inverse ? (dy - dladj * (bend * bin.over_width)) / slope : dy * slope + dladj * (bend * bin.over_width);
    const A g = inverse ? -dx : dy;
    A h = inverse ? -dladj : dladj;
    if (tails == Tails::Linear)
        h = outside ? A(0) : h;
    if (tails == Tails::Bounded)
        h = outside ? h + g * (u - folded) * slope : h;
    const A inside = outside ? A(0) : g;
    const A up = inside * bin.height * (over_den * over_den);
    const A ds =
        up * tr * (bin.d1 * tt - bin.d0 * rr) + A(2) * h * (A(1) / bin.s + tr * over_num - (tt + rr) * over_den);
    const A d0 = up * tr * p.r * (bin.s * p.r + bin.d1 * p.t) + h * (rr * over_num - A(2) * tr * over_den);
    const A d1 = h * (tt * over_num - A(2) * tr * over_den) - up * tr * p.t * (bin.s * p.t + bin.d0 * p.r);
    const A dt = up * bin.s * num + h * bend;
    const A eta = (bin.s * tt + bin.d0 * tr) * over_den;
    return {dx,
            -dt * bin.over_width,
            -(ds * bin.s + dt * p.t) * bin.over_width,
            inside,
            inside * eta + ds * bin.over_width,
            d0 * slope_slope(clips, shape, raw0),
            d1 * slope_slope(clips, shape, raw1)};
}

// The gradient of logit k: `share` times softmax_k (its own - the mean of all), where own is `before` for bins before
// the one that was found, `here` for itself and zero after it.
template <class A> struct LogitGradient {
    A before, here, mean, scale; // scale: share over the sum of the weights

    PFK_HD LogitGradient of(A before, A here, A weight_before, A weight_own, A share, A over_sum) {
        return {before, here, (before * weight_before + here * weight_own) * over_sum, share * over_sum};
    }
    PFK_HD_MEMBER A at(A k, A index, A weight) const {
        const A own = k < index ? before : k == index ? here : A(0);
        return scale * weight * (own - mean);
    }
};

} // namespace pfk
