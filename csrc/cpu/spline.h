// The spline of 16 elements abreast, params in rows of 16, a row a parameter: what rq_spline.cpp offers to other
// kernels.
#pragma once

#include "../math/spline.h"
#include "tile.h"

namespace pfk::cpu {

constexpr int64_t kMostSplineParams = 3 * 64 + 1; // those of 64 bins

// `move` (shape, bins, rows, x, y, slope) overwrites the rows; slope is that of the spline, whichever direction runs.
// `gradient` (shape, bins, rows, u, dy, dladj, dx) leaves the gradients of the params in their rows; u is the spline's
// argument: x, or y of the inverse.
template <class A> struct SplineArithmetic {
    void (*move)(const SplineShape<A>&, int, A*, const A*, A*, A*);
    void (*gradient)(const SplineShape<A>&, int, A*, const A*, const A*, const A*, A*);
};

namespace PFK_ISA {
template <class A> SplineArithmetic<A> spline_arithmetic(const Spline&); // for float and double
}

} // namespace pfk::cpu
