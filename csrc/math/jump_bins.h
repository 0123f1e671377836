// Jumps along straight lines: the rate and the landing law of one coordinate, and one call of the op as every back end
// receives it. Holderrieth et al. 2024, arXiv:2410.20587.
#pragma once

#include "elementary.h"
#include "kernel.h"

namespace pfk {

// The coordinate of the data z: between its two values of noise, whose product is -1, jumps land.
template <class A> struct JumpLaw {
    A centre, slope, data, lower, upper, scale;

    // t z is the centre; noise is counted in units of 1 - t, which is not 0: at the end bins are far from the data.
    PFK_HD JumpLaw of(A z, A t) {
        const A sigma = A(1) - t, far = A(0.5) * (detail::magnitude(z) + detail::root_of(z * z + A(4)));
        const A upper = z < A(0) ? A(1) / far : far;
        JumpLaw law{t * z, A(1) / (sigma < A(1e-30) ? A(1e-30) : sigma), z, A(-1) / upper, upper, A(1)};
        law.scale = A(1) / (law.mass_below(upper) - law.mass_below(law.lower));
        return law;
    }

    // The place as noise, and not beyond where jumps land; NaN of the data stays.
    PFK_HD_MEMBER A noise_at(A place) const {
        A e = (place - centre) * slope;
        e = e < lower ? lower : e;
        return e > upper ? upper : e;
    }

    // A constant less than the mass below noise e.
    PFK_HD_MEMBER A mass_below(A e) const { return scale * (e - data) * exp(A(-0.5) * e * e); }
};

// (1 - t) times the rate.
template <class A> PFK_HD A jump_rate(A e, A z) {
    const A rate = e * e - e * z - A(1);
    return rate < A(0) ? A(0) : rate;
}

// x0, x1 (rows, size), dense inside; t (rows,); rate (rows, size) and masses (rows, size, bins) as wide as t.
struct JumpBins {
    DType type;
    int64_t rows, size, bins;
    double low, high;
    const void *x0, *x1, *t;
    int64_t x0_stride, x1_stride, t_stride;
    void *rate, *masses;
};

PFK_KERNEL(jump_bins, JumpBins)

} // namespace pfk
