// affine_coupling on the GPU: a row belongs to a few lanes, a warp or a block, by its size alone, so that its
// log-determinant is the same sum in every batch. Rows of many thousand elements are cut into segments, a block each,
// whose sums a second launch adds up.
//
// Runs that 128-bit accesses fit into take the vector path, compiled for each map; everything else goes element by
// element, neighbouring lanes on neighbouring elements of x.

#include "../math/affine_coupling.h"
#include "../math/places.h"
#include "masked.cuh"

namespace pfk::cuda {
namespace {

constexpr int64_t kUnitsPerThread = 8; // of a segment

// ---- who does what -------------------------------------------------------------------------------------------------

struct Schedule {
    int64_t units, segment, segments; // units of a row, of a segment; segments of a row
    int lanes;                        // a power of two up to a warp, or a whole block

    int64_t blocks(int64_t rows) const {
        const int64_t at_once = kThreads / lanes;
        return (rows + at_once - 1) / at_once * segments;
    }
};

Schedule schedule_of(int64_t units) {
    if (units > kUnitsPerThread * warp_size) {
        const int64_t segment = kUnitsPerThread * kThreads;
        return {units, segment, (units + segment - 1) / segment, kThreads};
    }
    int lanes = 1;
    while (lanes < units && lanes < warp_size)
        lanes *= 2;
    return {units, units > 0 ? units : 1, 1, lanes};
}

// The part of a row that this thread works on: every `lanes`-th unit of [first, last).
struct Share {
    int64_t row, first, last;
    int64_t segment;
    bool leads; // writes the sum

    PFK_DEVICE Share(const Schedule& s) {
        const int64_t rows_at = blockIdx.x / static_cast<unsigned>(s.segments);
        segment = blockIdx.x % static_cast<unsigned>(s.segments);
        const int thread = static_cast<int>(threadIdx.x), lane = thread & (s.lanes - 1);
        row = rows_at * (kThreads / s.lanes) + thread / s.lanes;
        first = segment * s.segment + lane;
        last = min((segment + 1) * s.segment, s.units);
        leads = lane == 0;
    }
};

// ---- the maps, chosen by the compiler or by the launch --------------------------------------------------------------

template <bool Inverse, Bound K> struct Fixed {
    static constexpr bool scales = K != Bound::Additive;
    static constexpr bool inverse = Inverse;

    static Fixed of(bool, Bound) { return {}; }
    template <class A> PFK_DEVICE A move(A x, A raw, A t, A limit, A inverse_limit, A& s) const {
        return affine<Inverse, K, A>(x, raw, t, limit, inverse_limit, s);
    }
    template <class A>
    PFK_DEVICE AffineGradient<A> gradient(A y, A raw, A t, A dy, A dladj, A limit, A inverse_limit) const {
        return affine_gradient<Inverse, K, A>(y, raw, t, dy, dladj, limit, inverse_limit);
    }
};

struct Chosen {
    bool inverse, scales;
    Bound bound;

    static Chosen of(bool inverse, Bound bound) { return {inverse, bound != Bound::Additive, bound}; }
    template <class A> PFK_DEVICE A move(A x, A raw, A t, A limit, A inverse_limit, A& s) const {
        return with([&](auto map) { return map.move(x, raw, t, limit, inverse_limit, s); });
    }
    template <class A>
    PFK_DEVICE AffineGradient<A> gradient(A y, A raw, A t, A dy, A dladj, A limit, A inverse_limit) const {
        return with([&](auto map) { return map.gradient(y, raw, t, dy, dladj, limit, inverse_limit); });
    }

  private:
    template <class Body> PFK_DEVICE auto with(Body body) const {
        switch (bound) {
        case Bound::None:
            return both<Bound::None>(body);
        case Bound::Tanh:
            return both<Bound::Tanh>(body);
        case Bound::Sigmoid:
            return both<Bound::Sigmoid>(body);
        default:
            return both<Bound::Additive>(body);
        }
    }
    template <Bound K, class Body> PFK_DEVICE auto both(Body body) const {
        return inverse ? body(Fixed<true, K>{}) : body(Fixed<false, K>{});
    }
};

// ---- kernels: N is the number of elements of a unit -----------------------------------------------------------------

template <class Problem, class Index, class Map> struct Call {
    Problem p;
    Places<Index> places;
    int64_t shift; // from raw log-scales to shifts, in elements
    Schedule schedule;
    Map map;
    bool in_place;
};

template <class T, class P, int N, class Index, class Map>
__global__ void __launch_bounds__(kThreads) forward(const Call<AffineCoupling, Index, Map> call) {
    using A = arithmetic_t<T>;
    const Share share(call.schedule);
    const A limit = static_cast<A>(call.p.limit), inverse_limit = A(1) / limit;
    A sum = 0;
    if (share.row < call.p.rows) {
        const T* const x = static_cast<const T*>(call.p.x) + share.row * call.p.x_stride;
        const P* const params = static_cast<const P*>(call.p.params) + share.row * call.p.params_stride;
        T* const y = static_cast<T*>(call.p.y) + share.row * call.p.y_stride;
        for (int64_t unit = share.first; unit < share.last; unit += call.schedule.lanes) {
            const Place<Index> place = call.places.at(static_cast<Index>(unit), N);
            if (call.in_place && !place.has_params)
                continue;
            Vec<T, N> value = vload<N>(x + unit * N);
            if (place.has_params) {
                const P* const param = params + static_cast<int64_t>(place.param) * N;
                Vec<P, N> raw = {};
                if (call.map.scales)
                    raw = vload<N>(param);
                const Vec<P, N> t = vload<N>(param + call.shift);
#pragma unroll
                for (int k = 0; k < N; ++k) {
                    A s;
                    const A moved =
                        call.map.move(A(widen(value[k])), A(widen(raw[k])), A(widen(t[k])), limit, inverse_limit, s);
                    if (k % 2 == 0 ? place.even : place.odd) {
                        value[k] = narrow<T>(moved);
                        sum += s;
                    }
                }
            }
            vstore(y + unit * N, value);
        }
    }
    if (call.schedule.lanes == kThreads)
        sum = block_reduce<kThreads>(sum);
    else
        for (int step = call.schedule.lanes / 2; step > 0; step /= 2)
            sum += __shfl_xor_sync(full_warp, sum, step);
    if (share.leads && share.row < call.p.rows) {
        A* const sums = static_cast<A*>(call.schedule.segments > 1 ? call.p.scratch : call.p.ladj);
        sums[share.row * call.schedule.segments + share.segment] = call.map.inverse ? -sum : sum;
    }
}

template <class T, class P, int N, class Index, class Map>
__global__ void __launch_bounds__(kThreads) backward(const Call<AffineCouplingBackward, Index, Map> call) {
    using A = arithmetic_t<T>;
    const Share share(call.schedule);
    if (share.row >= call.p.rows)
        return;
    const A limit = static_cast<A>(call.p.limit), inverse_limit = A(1) / limit;
    const A dladj = static_cast<const A*>(call.p.dladj)[share.row * call.p.dladj_stride];
    const T* const y = static_cast<const T*>(call.p.y) + share.row * call.p.y_stride;
    const T* const dy = static_cast<const T*>(call.p.dy) + share.row * call.p.dy_stride;
    const P* const params = static_cast<const P*>(call.p.params) + share.row * call.p.params_stride;
    T* const dx = static_cast<T*>(call.p.dx) + share.row * call.p.size;
    P* const dparams = static_cast<P*>(call.p.dparams) + share.row * call.p.param_size;
    for (int64_t unit = share.first; unit < share.last; unit += call.schedule.lanes) {
        const Place<Index> place = call.places.at(static_cast<Index>(unit), N);
        Vec<T, N> gradient = vload<N>(dy + unit * N);
        if (place.has_params) {
            const int64_t param = static_cast<int64_t>(place.param) * N;
            Vec<P, N> raw = {};
            if (call.map.scales)
                raw = vload<N>(params + param);
            Vec<P, N> t = vload<N>(params + param + call.shift);
            const Vec<T, N> value = vload<N>(y + unit * N);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const AffineGradient<A> g = call.map.gradient(A(widen(value[k])), A(widen(raw[k])), A(widen(t[k])),
                                                              A(widen(gradient[k])), dladj, limit, inverse_limit);
                const bool moved = k % 2 == 0 ? place.even : place.odd;
                gradient[k] = moved ? narrow<T>(g.x) : gradient[k];
                raw[k] = narrow<P>(moved ? g.raw : A(0));
                t[k] = narrow<P>(moved ? g.t : A(0));
            }
            if (call.map.scales)
                vstore(dparams + param, raw);
            vstore(dparams + param + call.shift, t);
        }
        vstore(dx + unit * N, gradient);
    }
}

// ---- from run-time choices to templates -----------------------------------------------------------------------------

template <class Body> cudaError_t with_map(bool inverse, Bound bound, Body body) {
    switch (bound) {
    case Bound::None:
        return inverse ? body(Type<Fixed<true, Bound::None>>{}) : body(Type<Fixed<false, Bound::None>>{});
    case Bound::Tanh:
        return inverse ? body(Type<Fixed<true, Bound::Tanh>>{}) : body(Type<Fixed<false, Bound::Tanh>>{});
    case Bound::Sigmoid:
        return inverse ? body(Type<Fixed<true, Bound::Sigmoid>>{}) : body(Type<Fixed<false, Bound::Sigmoid>>{});
    default: // additive: of the others, MADE's alone, the checks let none through
        break;
    }
    return inverse ? body(Type<Fixed<true, Bound::Additive>>{}) : body(Type<Fixed<false, Bound::Additive>>{});
}

// May rows that begin at `data` and lie `stride` elements apart be read in vectors?
template <class T, int N> bool fits(const void* data, int64_t stride) {
    return is_aligned(data, sizeof(T) * N) && stride % N == 0;
}

template <class T, class P, int N> bool fits(const AffineCoupling& p) {
    return fits<T, N>(p.x, p.x_stride) && fits<T, N>(p.y, p.y_stride) && fits<P, N>(p.params, p.params_stride);
}

template <class T, class P, int N> bool fits(const AffineCouplingBackward& p) {
    return fits<T, N>(p.y, p.y_stride) && fits<T, N>(p.dy, p.dy_stride) && fits<P, N>(p.params, p.params_stride) &&
           fits<T, N>(p.dx, p.size) && fits<P, N>(p.dparams, p.param_size);
}

// The event in units of N elements, if the vector path can take this problem.
template <class T, class P, int N, class Problem> bool vectorised(const Problem& p, Event& units) {
    return fits<T, P, N>(p) && p.size / N < (int64_t(1) << 31) && in_units(units, N);
}

template <int N, class Index, class Map, class Problem>
Call<Problem, Index, Map> call_of(const Problem& p, const Event& units, bool in_place) {
    return {p,       places_of<Index>(units), shift_of(p.event), schedule_of(p.size / N), Map::of(p.inverse, p.bound),
            in_place};
}

} // namespace

int64_t affine_coupling_scratch(const AffineCoupling& p) {
    const int64_t segments = schedule_of(p.size).segments; // of single elements: as many as there can be
    return segments > 1 ? p.rows * segments : 0;
}

Error affine_coupling(const AffineCoupling& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return with_types(p.state, p.param, [&](auto state, auto param) {
        using T = typename decltype(state)::type;
        using P = typename decltype(param)::type;
        using A = arithmetic_t<T>;
        constexpr int N = vector_width<T>;
        Event units = p.event;
        int64_t segments = 1;
        const auto run = [&](auto kernel, const auto& call) {
            segments = call.schedule.segments;
            return launch(kernel, static_cast<unsigned>(call.schedule.blocks(p.rows)), kThreads, 0, on, call);
        };
        const cudaError_t error =
            vectorised<T, P, N>(p, units)
                ? with_map(p.inverse, p.bound,
                           [&](auto map) {
                               using Map = typename decltype(map)::type;
                               return run(forward<T, P, N, uint32_t, Map>,
                                          call_of<N, uint32_t, Map>(p, units, p.x == p.y));
                           })
                : run(forward<T, P, 1, uint64_t, Chosen>, call_of<1, uint64_t, Chosen>(p, p.event, p.x == p.y));
        if (error != cudaSuccess || segments == 1)
            return error;
        return launch_sums(static_cast<const A*>(p.scratch), static_cast<A*>(p.ladj), p.rows, segments, on);
    });
}

Error affine_coupling_backward(const AffineCouplingBackward& p, void* stream) {
    if (p.rows == 0 || p.size == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return with_types(p.state, p.param, [&](auto state, auto param) {
        using T = typename decltype(state)::type;
        using P = typename decltype(param)::type;
        constexpr int N = vector_width<T>;
        Event units = p.event;
        const auto run = [&](auto kernel, const auto& call) {
            return launch(kernel, static_cast<unsigned>(call.schedule.blocks(p.rows)), kThreads, 0, on, call);
        };
        if (!vectorised<T, P, N>(p, units))
            return run(backward<T, P, 1, uint64_t, Chosen>, call_of<1, uint64_t, Chosen>(p, p.event, false));
        return with_map(p.inverse, p.bound, [&](auto map) {
            using Map = typename decltype(map)::type;
            return run(backward<T, P, N, uint32_t, Map>, call_of<N, uint32_t, Map>(p, units, false));
        });
    });
}

} // namespace pfk::cuda
