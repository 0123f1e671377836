// MADE on the GPU: a block owns 32 samples, one a lane, and walks all coordinates; its warps share the units of a
// degree. Samples are independent, so nothing is ever waited for beyond the block. A call of many samples is walked by
// the same few hundred blocks, whose activations stay in a scratch of fixed size.

#include "../math/made.h"
#include "device.cuh"
#include "spline.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / warp_size;
constexpr int64_t kMostBlocks = 512;
constexpr int kTile = warp_size;

// With fewer registers the calls of a double division would spill.
template <class A> constexpr int blocks_at_once(int of_float) { return sizeof(A) == sizeof(double) ? 1 : of_float; }

int64_t tiles_of(int64_t samples) { return (samples + kTile - 1) / kTile; }
int64_t blocks_of(int64_t samples) {
    const int64_t tiles = tiles_of(samples);
    return tiles < kMostBlocks ? tiles : kMostBlocks;
}

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

template <class A> PFK_DEVICE A slope_of(Activation kind, A pre) {
    switch (kind) {
    case Activation::Relu:
        return activation_slope<Activation::Relu>(pre);
    case Activation::Tanh:
        return activation_slope<Activation::Tanh>(pre);
    case Activation::Silu:
        return activation_slope<Activation::Silu>(pre);
    case Activation::Elu:
        return activation_slope<Activation::Elu>(pre);
    case Activation::LeakyRelu:
        return activation_slope<Activation::LeakyRelu>(pre);
    default:
        return activation_slope<Activation::Selu>(pre);
    }
}

// ---- the maps of a coordinate: any struct like these can stand in their place --------------------------------------

template <class A> using Params = Column<A, kTile>; // of a coordinate, for this lane's sample

template <class A> struct AffineMap {
    static constexpr int kBlocks = 2; // of the gradient, at once
    Bound bound;
    A limit, inverse_limit;

    PFK_DEVICE explicit AffineMap(const MadeMap& map)
        : bound(map.bound), limit(static_cast<A>(map.limit)), inverse_limit(static_cast<A>(map.inverse_limit)) {}

    // x moved, or moved back; leaves the log-slope of the map in s. May overwrite the params.
    template <bool Inverse> PFK_DEVICE A move(A x, Params<A> params, A& s) const {
        const A raw = params[0], t = params[bound != Bound::Additive];
        switch (bound) {
        case Bound::None:
            return affine<Inverse, Bound::None>(x, raw, t, limit, inverse_limit, s);
        case Bound::Tanh:
            return affine<Inverse, Bound::Tanh>(x, raw, t, limit, inverse_limit, s);
        case Bound::Sigmoid:
            return affine<Inverse, Bound::Sigmoid>(x, raw, t, limit, inverse_limit, s);
        case Bound::Softclip:
            return affine<Inverse, Bound::Softclip>(x, raw, t, limit, inverse_limit, s);
        case Bound::Softplus:
            return affine<Inverse, Bound::Softplus>(x, raw, t, limit, inverse_limit, s);
        case Bound::FlooredSigmoid:
            return affine<Inverse, Bound::FlooredSigmoid>(x, raw, t, limit, inverse_limit, s);
        default:
            return affine<Inverse, Bound::Additive>(x, raw, t, limit, inverse_limit, s);
        }
    }

    // From the data side x: returns the gradient of what went in, x or z, and leaves those of the params in dparams.
    PFK_DEVICE A gradient(bool inverse, A x, Params<A> params, A dy, A dladj, Params<A> dparams) const {
        const AffineGradient<A> g =
            inverse ? gradient_from<true>(x, params, dy, dladj) : gradient_from<false>(x, params, dy, dladj);
        dparams[0] = g.raw;
        dparams[bound != Bound::Additive] = g.t;
        return g.x;
    }

  private:
    template <bool Inverse> PFK_DEVICE AffineGradient<A> gradient_from(A x, Params<A> params, A dy, A dladj) const {
        const A raw = params[0], t = params[bound != Bound::Additive];
        A s;
        const A y = Inverse ? x : move<false>(x, params, s);
        switch (bound) {
        case Bound::None:
            return affine_gradient<Inverse, Bound::None>(y, raw, t, dy, dladj, limit, inverse_limit);
        case Bound::Tanh:
            return affine_gradient<Inverse, Bound::Tanh>(y, raw, t, dy, dladj, limit, inverse_limit);
        case Bound::Sigmoid:
            return affine_gradient<Inverse, Bound::Sigmoid>(y, raw, t, dy, dladj, limit, inverse_limit);
        case Bound::Softclip:
            return affine_gradient<Inverse, Bound::Softclip>(y, raw, t, dy, dladj, limit, inverse_limit);
        case Bound::Softplus:
            return affine_gradient<Inverse, Bound::Softplus>(y, raw, t, dy, dladj, limit, inverse_limit);
        case Bound::FlooredSigmoid:
            return affine_gradient<Inverse, Bound::FlooredSigmoid>(y, raw, t, dy, dladj, limit, inverse_limit);
        default:
            return affine_gradient<Inverse, Bound::Additive>(y, raw, t, dy, dladj, limit, inverse_limit);
        }
    }
};

// The direction is that of the call, which its spline knows.
template <class A> struct SplineMap {
    static constexpr int kBlocks = 1; // two would spill
    const Spline& spline;

    PFK_DEVICE explicit SplineMap(const MadeMap& map) : spline(map.spline) {}

    template <bool> PFK_DEVICE A move(A x, Params<A> params, A& s) const {
        A slope;
        const A y = move_by_spline(spline, spline.template shape<A>(), params, x, slope);
        s = log(slope);
        return y;
    }

    PFK_DEVICE A gradient(bool, A x, Params<A> params, A dy, A dladj, Params<A> dparams) const {
#pragma unroll 4
        for (int k = 0; k < spline.params(); ++k)
            dparams[k] = params[k];
        return gradient_by_spline(
            spline, spline.template shape<A>(), dparams, [&](int k) { return params[k]; }, x, dy, dladj);
    }
};

// The activations of a tile, [row][sample], in global memory that only this block touches. `Problem` is Made or
// MadeBackward: their common part is read here.
template <class A, class P, class Problem> struct Network {
    const Problem& p;
    const P* weights;
    A *x, *pre, *act, *params; // params: of all coordinates
    int lane, warp;
    int64_t first; // sample of lane 0

    PFK_DEVICE Network(const Problem& problem, A* scratch)
        : p(problem), weights(static_cast<const P*>(problem.weights)), lane(static_cast<int>(threadIdx.x) % warp_size),
          warp(static_cast<int>(threadIdx.x) / warp_size), first(0) {
        const int64_t hidden = p.plan.hidden();
        x = scratch;
        pre = x + p.plan.features * kTile;
        act = pre + hidden * kTile;
        params = act + hidden * kTile;
    }
    PFK_DEVICE A* end() const { return params + p.plan.features * p.plan.params * kTile; }

    PFK_DEVICE bool linear(int64_t layer) const { return is_linear(p.residual, layer, p.plan.layers); }
    PFK_DEVICE bool lives() const { return first + lane < p.samples; }
    PFK_DEVICE const A* inputs(int64_t layer) const { return layer == 0 ? x : act + p.plan.offset(layer - 1) * kTile; }
    // The packed row, whose elements are kMadeRows apart.
    PFK_DEVICE const P* row_of(int64_t block, int64_t layer, int64_t row) const {
        const int64_t inside = row - p.plan.end(layer, block * kMadeBlock - 1);
        return weights + p.plan.start(block, layer) +
               inside / kMadeRows * kMadeRows * p.plan.seen(layer, p.plan.last_of(block)) + inside % kMadeRows;
    }

    // One row of a layer for the 32 samples, of that degree.
    PFK_DEVICE A dot(int64_t layer, int64_t row, int64_t degree) const {
        const P* const w = row_of(degree / kMadeBlock, layer, row);
        const A* const h = inputs(layer) + lane;
        const int64_t seen = p.plan.seen(layer, degree);
        A sum = A(widen(weights[p.plan.offset(layer) + row]));
#pragma unroll 4
        for (int64_t k = 0; k < seen; ++k)
            sum += A(widen(w[k * kMadeRows])) * h[k * kTile];
        return sum;
    }

    PFK_DEVICE void hidden_unit(int64_t layer, int64_t row, int64_t degree) const {
        A value = dot(layer, row, degree);
        const int64_t unit = p.plan.offset(layer) + row;
        if (unit < p.shift_units && lives())
            value += static_cast<const A*>(p.shift)[(first + lane) * p.shift_stride + unit];
        if (p.residual != Residual::None && layer > 0 && layer % 2 == 0)
            value += pre[(p.plan.offset(layer - 2) + row) * kTile + lane];
        pre[unit * kTile + lane] = value;
        act[unit * kTile + lane] = linear(layer) ? value : activated(p.activation, value);
    }

    // The units of one degree in a layer, or its output rows, dealt out to the warps.
    PFK_DEVICE void rows_of(int64_t layer, int64_t degree) const {
        for (int64_t row = p.plan.end(layer, degree - 1) + warp; row < p.plan.end(layer, degree); row += kWarps) {
            if (layer == p.plan.layers)
                params[row * kTile + lane] = dot(layer, row, degree);
            else
                hidden_unit(layer, row, degree);
        }
    }

    PFK_DEVICE Params<A> params_of(int64_t i) const { return {params + i * p.plan.params * kTile + lane}; }

    PFK_DEVICE void load(A* to, const void* from, int64_t stride) const {
        for (int64_t i = warp; i < p.plan.features; i += kWarps)
            to[i * kTile + lane] =
                lives() ? static_cast<const A*>(from)[(first + lane) * stride + p.plan.order(i)] : A(0);
    }

    // From x: all units and parameters.
    PFK_DEVICE void forward() const {
        for (int64_t layer = 0; layer <= p.plan.layers; ++layer) {
            for (int64_t degree = 0; degree < p.plan.features; ++degree)
                rows_of(layer, degree);
            __syncthreads();
        }
    }
};

template <class A, class P, template <class> class Map>
__global__ void __launch_bounds__(kThreads, blocks_at_once<A>(2)) run(const Made p) {
    const int64_t d = p.plan.features, layers = p.plan.layers;
    const int64_t size = (d + 2 * p.plan.hidden() + d * p.plan.params) * kTile;
    Network<A, P, Made> net(p, static_cast<A*>(p.scratch) + blockIdx.x * size);
    const Map<A> map(p.map);
    const int64_t tiles = (p.samples + kTile - 1) / kTile;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        net.first = tile * kTile;
        const bool leads = net.warp == 0, lives = net.lives();
        A* const y = static_cast<A*>(p.y) + (net.first + net.lane) * d;
        A ladj = 0; // of warp 0
        if (p.inverse) {
            const A* const z = static_cast<const A*>(p.x) + (net.first + net.lane) * p.x_stride;
            for (int64_t i = 0; i < d; ++i) {
                for (int64_t layer = 0; layer <= layers; ++layer) {
                    net.rows_of(layer, i);
                    __syncthreads();
                }
                if (leads) {
                    A s;
                    const A value = map.template move<true>(lives ? z[p.plan.order(i)] : A(0), net.params_of(i), s);
                    net.x[i * kTile + net.lane] = value;
                    ladj -= s;
                    if (lives)
                        y[p.plan.order(i)] = value;
                }
                __syncthreads();
            }
        } else {
            net.load(net.x, p.x, p.x_stride);
            __syncthreads();
            net.forward();
#pragma unroll 1
            for (int64_t i = net.warp; i < d; i += kWarps) {
                A s;
                const A value = map.template move<false>(net.x[i * kTile + net.lane], net.params_of(i), s);
                net.params_of(i)[0] = s;
                if (lives)
                    y[p.plan.order(i)] = value;
            }
            __syncthreads();
#pragma unroll 4
            for (int64_t i = 0; leads && i < d; ++i)
                ladj += net.params_of(i)[0];
        }
        if (leads && lives)
            static_cast<A*>(p.ladj)[net.first + net.lane] = ladj;
    }
}

template <class A, class P, template <class> class Map>
__global__ void __launch_bounds__(kThreads, blocks_at_once<A>(Map<A>::kBlocks)) run_backward(const MadeBackward p) {
    const int64_t d = p.plan.features, layers = p.plan.layers, hidden = p.plan.hidden(), units = p.plan.units();
    const int64_t size = (2 * d + 2 * hidden + d * p.plan.params + units) * kTile;
    Network<A, P, MadeBackward> net(p, static_cast<A*>(p.scratch) + blockIdx.x * size);
    A* const deltas = net.end();
    A* const gx = deltas + units * kTile;
    const Map<A> map(p.map);
    const int lane = net.lane;

    // What column c of a layer receives from the layer's rows of degree `from` and above.
    const auto gather = [&](int64_t layer, int64_t c, int64_t from) {
        A sum = 0;
        const A* const delta = deltas + p.plan.offset(layer) * kTile + lane;
        for (int64_t block = from / kMadeBlock; block < p.plan.blocks(); ++block) {
            const int64_t low = block * kMadeBlock > from ? block * kMadeBlock : from;
            const int64_t end = p.plan.end(layer, p.plan.last_of(block));
#pragma unroll 4
            for (int64_t row = p.plan.end(layer, low - 1); row < end; ++row)
                sum += A(widen(net.row_of(block, layer, row)[c * kMadeRows])) * delta[row * kTile];
        }
        return sum;
    };

    const int64_t tiles = (p.samples + kTile - 1) / kTile;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        net.first = tile * kTile;
        const int64_t sample = net.first + lane;
        net.load(net.x, p.x, p.x_stride);
        net.load(gx, p.dy, p.dy_stride);
        __syncthreads();
        net.forward();
        const A dladj = net.lives() ? static_cast<const A*>(p.dladj)[sample * p.dladj_stride] : A(0);
        for (int64_t i = d - 1; i >= 0; --i) {
            if (net.warp == 0) {
                const A x = net.x[i * kTile + lane], dy = gx[i * kTile + lane], through = gather(0, i, i + 1);
                const Params<A> dparams = {deltas + (hidden + i * p.plan.params) * kTile + lane};
                A dx = map.gradient(p.inverse, x, net.params_of(i), p.inverse ? dy + through : dy, dladj, dparams);
                if (!p.inverse)
                    dx += through;
                if (net.lives())
                    static_cast<A*>(p.dx)[sample * d + p.plan.order(i)] = dx;
            }
            __syncthreads();
            for (int64_t layer = layers - 1; layer >= 0; --layer) {
                for (int64_t row = p.plan.end(layer, i - 1) + net.warp; row < p.plan.end(layer, i); row += kWarps) {
                    const int64_t unit = (p.plan.offset(layer) + row) * kTile + lane;
                    A delta = gather(layer + 1, row, i);
                    if (!net.linear(layer))
                        delta *= slope_of(p.activation, net.pre[unit]);
                    if (p.residual != Residual::None && layer % 2 == 0 && layer + 2 < layers)
                        delta += deltas[(p.plan.offset(layer + 2) + row) * kTile + lane];
                    deltas[unit] = delta;
                }
                __syncthreads();
            }
        }
        for (int64_t s = net.warp; s < kTile && net.first + s < p.samples; s += kWarps) { // a warp a sample
            A* const inputs = static_cast<A*>(p.inputs) + (net.first + s) * (d + hidden);
            for (int64_t i = lane; i < d; i += warp_size)
                inputs[i] = net.x[i * kTile + s];
            for (int64_t i = lane; i < hidden; i += warp_size)
                inputs[d + i] = net.act[i * kTile + s];
            for (int64_t i = lane; i < units; i += warp_size)
                static_cast<A*>(p.deltas)[(net.first + s) * units + i] = deltas[i * kTile + s];
            if (p.dshift != nullptr)
                for (int64_t i = lane; i < p.shift_units; i += warp_size)
                    static_cast<A*>(p.dshift)[(net.first + s) * p.shift_units + i] = deltas[i * kTile + s];
        }
        __syncthreads();
    }
}

// A thread an element of the packed weights, samples in their order. blockIdx.x: the matrix.
template <class A, class P> __global__ void __launch_bounds__(kThreads) run_weights(const MadeWeights p) {
    const MadePlan& plan = p.plan;
    const unsigned layers = static_cast<unsigned>(plan.layers) + 1; // 64-bit division is a call
    const int64_t block = blockIdx.x / layers, layer = blockIdx.x % layers;
    const int64_t first = block * kMadeBlock, last = plan.last_of(block), from = plan.end(layer, first - 1);
    const int64_t rows = plan.end(layer, last) - from, columns = plan.seen(layer, last);
    const int64_t width = plan.features + plan.hidden(), units = plan.units();
    const A* const inputs = static_cast<const A*>(p.inputs) + (layer == 0 ? 0 : plan.features + plan.offset(layer - 1));
    const A* const deltas = static_cast<const A*>(p.deltas) + plan.offset(layer) + from;
    P* const dweights = static_cast<P*>(p.dweights);
    const int64_t thread = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.y) * kThreads;
    for (int64_t row = thread; row < rows; row += threads) {
        A sum = 0;
        for (int64_t s = 0; s < p.samples; ++s)
            sum += deltas[s * units + row];
        dweights[plan.offset(layer) + from + row] = narrow<P>(sum);
    }
    for (int64_t group = 0; group < rows; group += kMadeRows)
        for (int64_t e = thread; e < kMadeRows * columns; e += threads) {
            const int64_t row = group + e % kMadeRows, column = e / kMadeRows;
            bool sees = false; // the row's degree is found by the prefix that ends above it
            for (int64_t degree = first; row < rows && degree <= last; ++degree)
                if (from + row < plan.end(layer, degree)) {
                    sees = column < plan.seen(layer, degree);
                    break;
                }
            A sum = 0;
            for (int64_t s = 0; sees && s < p.samples; ++s)
                sum += deltas[s * units + row] * inputs[s * width + column];
            dweights[plan.start(block, layer) + group * columns + e] = narrow<P>(sum);
        }
}

// Calls body(Type<arithmetic>, Type<weights in memory>).
template <class Body> cudaError_t with_types(DType param, Body body) {
    switch (param) {
    case DType::F64:
        return body(Type<double>{}, Type<double>{});
    case DType::BF16:
        return body(Type<float>{}, Type<bf16>{});
    case DType::F16:
        return body(Type<float>{}, Type<fp16>{});
    default:
        return body(Type<float>{}, Type<float>{});
    }
}

template <class A, class P, template <class> class Map> auto kernel_of(const Made&) { return run<A, P, Map>; }
template <class A, class P, template <class> class Map> auto kernel_of(const MadeBackward&) {
    return run_backward<A, P, Map>;
}

// Calls body with the kernel of a call's types and map.
template <class Problem, class Body> cudaError_t with_kernel(const Problem& p, Body body) {
    return with_types(p.param, [&](auto arithmetic, auto param) {
        using A = typename decltype(arithmetic)::type;
        using P = typename decltype(param)::type;
        return p.map.spline.bins > 0 ? body(kernel_of<A, P, SplineMap>(p)) : body(kernel_of<A, P, AffineMap>(p));
    });
}

} // namespace

int64_t made_scratch(const Made& p) {
    return blocks_of(p.samples) * kTile * (p.plan.features * (1 + p.plan.params) + 2 * p.hidden);
}

int64_t made_backward_scratch(const MadeBackward& p) {
    return blocks_of(p.samples) * kTile * (2 * p.plan.features * (1 + p.plan.params) + 3 * p.hidden);
}

Error made(const Made& p, void* stream) {
    if (p.samples == 0)
        return cudaSuccess;
    return with_kernel(p, [&](auto kernel) {
        return launch(kernel, static_cast<unsigned>(blocks_of(p.samples)), kThreads, 0,
                      static_cast<cudaStream_t>(stream), p);
    });
}

Error made_backward(const MadeBackward& p, void* stream) {
    if (p.samples == 0)
        return cudaSuccess;
    return with_kernel(p, [&](auto kernel) {
        return launch(kernel, static_cast<unsigned>(blocks_of(p.samples)), kThreads, 0,
                      static_cast<cudaStream_t>(stream), p);
    });
}

Error made_weights(const MadeWeights& p, void* stream) {
    return with_types(p.param, [&](auto arithmetic, auto param) {
        return launch(run_weights<typename decltype(arithmetic)::type, typename decltype(param)::type>,
                      dim3(static_cast<unsigned>(p.rows), 8), kThreads, 0, static_cast<cudaStream_t>(stream), p);
    });
}

} // namespace pfk::cuda
