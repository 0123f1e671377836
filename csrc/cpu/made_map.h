// The maps that MADE moves a coordinate by, n samples at once: any struct like these can stand in their place.
#pragma once

#include "../math/made.h"
#include "spline.h"

namespace pfk::cpu {
namespace {

template <Bound Value> struct BoundKind {
    static constexpr Bound value = Value;
};

template <class A> class AffineMap {
  public:
    explicit AffineMap(const MadeMap& map) : bound(map.bound), limit(static_cast<A>(map.limit)) {}

    // from -> to by the parameters (params, n); the log-slope of the direction that was asked for joins `ladj`.
    template <bool Inverse> void move(const A* from, const A* params, A* to, A* ladj, int64_t n) const {
        if (n == 1) { // in a whole group of lanes, as others beside it would be
            A x[kLanes] = {*from}, pair[2 * kLanes] = {*params}, y[kLanes], sum[kLanes] = {*ladj};
            if (bound != Bound::Additive)
                pair[kLanes] = params[1];
            move<Inverse>(x, pair, y, sum, kLanes);
            *to = *y, *ladj = *sum;
            return;
        }
        const A inverse_limit = A(1) / limit;
        with([&](auto kind) {
            constexpr Bound K = decltype(kind)::value;
            const A* raw = params;
            const A* t = K == Bound::Additive ? params : params + n;
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                A s;
                to[i] = affine<Inverse, K, A>(from[i], raw[i], t[i], limit, inverse_limit, s);
                ladj[i] += Inverse ? -s : s;
            }
        });
    }

    // From the data side x: the gradients of what went in, x or z, and of the parameters.
    template <bool Inverse>
    void gradient(const A* x, const A* params, const A* dy, const A* dladj, A* dx, A* dparams, int64_t n) const {
        const A inverse_limit = A(1) / limit;
        with([&](auto kind) {
            constexpr Bound K = decltype(kind)::value;
            const A* raw = params;
            const A* t = K == Bound::Additive ? params : params + n;
            A* dt = K == Bound::Additive ? dparams : dparams + n;
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                A s;
                const A y = Inverse ? x[i] : affine<false, K, A>(x[i], raw[i], t[i], limit, inverse_limit, s);
                const auto g = affine_gradient<Inverse, K, A>(y, raw[i], t[i], dy[i], dladj[i], limit, inverse_limit);
                dx[i] = g.x;
                if (K != Bound::Additive)
                    dparams[i] = g.raw;
                dt[i] = g.t;
            }
        });
    }

  private:
    template <class Body> void with(Body body) const {
        switch (bound) {
        case Bound::None:
            return body(BoundKind<Bound::None>{});
        case Bound::Tanh:
            return body(BoundKind<Bound::Tanh>{});
        case Bound::Sigmoid:
            return body(BoundKind<Bound::Sigmoid>{});
        case Bound::Softclip:
            return body(BoundKind<Bound::Softclip>{});
        case Bound::Softplus:
            return body(BoundKind<Bound::Softplus>{});
        case Bound::FlooredSigmoid:
            return body(BoundKind<Bound::FlooredSigmoid>{});
        case Bound::Additive:
            return body(BoundKind<Bound::Additive>{});
        }
    }

    Bound bound;
    A limit;
};

// Groups of 16 samples go through buffers; the lanes that a last group lacks hold zeros.
template <class A> class SplineMap {
  public:
    explicit SplineMap(const MadeMap& map)
        : shape_(map.spline.shape<A>()), bins_(map.spline.bins), params_(map.params()),
          arithmetic_(PFK_ISA::spline_arithmetic<A>(map.spline)) {}

    template <bool Inverse> void move(const A* from, const A* params, A* to, A* ladj, int64_t n) const {
        alignas(64) A rows[kMostSplineParams * kLanes], x[kLanes], y[kLanes], slope[kLanes];
        for (int64_t at = 0; at < n; at += kLanes) {
            const int64_t lanes = n - at < kLanes ? n - at : kLanes;
            bring(params + at, n, params_, lanes, rows);
            bring(from + at, n, 1, lanes, x);
            arithmetic_.move(shape_, bins_, rows, x, y, slope);
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l)
                slope[l] = log(slope[l]);
            for (int64_t l = 0; l < lanes; ++l) {
                to[at + l] = y[l];
                ladj[at + l] += Inverse ? -slope[l] : slope[l];
            }
        }
    }

    template <bool>
    void gradient(const A* x, const A* params, const A* dy, const A* dladj, A* dx, A* dparams, int64_t n) const {
        alignas(64) A rows[kMostSplineParams * kLanes], u[kLanes], g[kLanes], h[kLanes], du[kLanes];
        for (int64_t at = 0; at < n; at += kLanes) {
            const int64_t lanes = n - at < kLanes ? n - at : kLanes;
            bring(params + at, n, params_, lanes, rows);
            bring(x + at, n, 1, lanes, u);
            bring(dy + at, n, 1, lanes, g);
            bring(dladj + at, n, 1, lanes, h);
            arithmetic_.gradient(shape_, bins_, rows, u, g, h, du);
            copy(du, dx + at, lanes);
            for (int64_t k = 0; k < params_; ++k)
                copy(rows + k * kLanes, dparams + k * n + at, lanes);
        }
    }

  private:
    static void bring(const A* from, int64_t n, int64_t count, int64_t lanes, A* rows) {
        for (int64_t k = 0; k < count; ++k, from += n, rows += kLanes)
            for (int64_t l = 0; l < kLanes; ++l)
                rows[l] = l < lanes ? from[l] : A(0);
    }

    SplineShape<A> shape_;
    int bins_;
    int64_t params_;
    SplineArithmetic<A> arithmetic_;
};

// Calls body with the map of a call.
template <class A, class Body> void with_map(const MadeMap& map, Body body) {
    map.spline.bins > 0 ? body(SplineMap<A>(map)) : body(AffineMap<A>(map));
}

} // namespace
} // namespace pfk::cpu
