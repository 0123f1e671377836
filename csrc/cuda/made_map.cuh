// What moves a coordinate of MADE back, by parameters that lie `kMapPitch` apart, and the activations of its network.
// Internal linkage.
#pragma once

#include "../math/made.h"
#include "device.cuh"
#include "spline.cuh"

namespace pfk::cuda {
namespace {

constexpr int kMapPitch = 16;

template <class A> PFK_DEVICE A activated(Activation kind, A pre) {
    switch (kind) {
    case Activation::Relu:
        return activate<Activation::Relu>(pre);
    case Activation::Tanh:
        return activate<Activation::Tanh>(pre);
    case Activation::Silu:
        return activate<Activation::Silu>(pre);
    case Activation::Elu:
        return activate<Activation::Elu>(pre);
    case Activation::LeakyRelu:
        return activate<Activation::LeakyRelu>(pre);
    default:
        return activate<Activation::Selu>(pre);
    }
}

template <class A> using Params = Column<A, kMapPitch>; // of a coordinate, for one sample

// Any struct like these can stand in their place: z moved back, the log-slope of the map left in s. May overwrite the
// params.

template <class A> struct AffineMap {
    Bound bound;
    A limit, inverse_limit;

    PFK_DEVICE explicit AffineMap(const MadeMap& map)
        : bound(map.bound), limit(static_cast<A>(map.limit)), inverse_limit(static_cast<A>(map.inverse_limit)) {}

    PFK_DEVICE A inverse(A z, Params<A> params, A& s) const {
        const A raw = params[0], t = params[bound != Bound::Additive];
        switch (bound) {
        case Bound::None:
            return affine<true, Bound::None>(z, raw, t, limit, inverse_limit, s);
        case Bound::Tanh:
            return affine<true, Bound::Tanh>(z, raw, t, limit, inverse_limit, s);
        case Bound::Sigmoid:
            return affine<true, Bound::Sigmoid>(z, raw, t, limit, inverse_limit, s);
        case Bound::Softclip:
            return affine<true, Bound::Softclip>(z, raw, t, limit, inverse_limit, s);
        case Bound::Softplus:
            return affine<true, Bound::Softplus>(z, raw, t, limit, inverse_limit, s);
        case Bound::FlooredSigmoid:
            return affine<true, Bound::FlooredSigmoid>(z, raw, t, limit, inverse_limit, s);
        default:
            return affine<true, Bound::Additive>(z, raw, t, limit, inverse_limit, s);
        }
    }
};

template <class A> struct SplineMap {
    const Spline& spline;

    PFK_DEVICE explicit SplineMap(const MadeMap& map) : spline(map.spline) {}

    PFK_DEVICE A inverse(A z, Params<A> params, A& s) const {
        A slope;
        const A x = move_by_spline(spline, spline.template shape<A>(), params, z, slope);
        s = log(slope);
        return x;
    }
};

} // namespace
} // namespace pfk::cuda
