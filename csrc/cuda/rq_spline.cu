// rq_spline on the GPU: a row belongs to a few lanes, a warp or several warps (segments, whose sums a second launch
// adds up), by its size alone, so that its log-determinant is the same sum in every batch. Warps know nothing of each
// other.
//
// The params of a warp's 32 elements go through its own stretch of shared memory, a column an element: read once, in
// whole sectors whatever their layout, weighed there, and in the backward pass replaced by their gradients. Columns are
// of an odd number of places, so that neighbours along either axis lie in different banks.

#include "../math/places.h"
#include "../math/rq_spline.h"
#include "masked.cuh"
#include "spline.cuh"

namespace pfk::cuda {
namespace {

constexpr int64_t kUnitsPerLane = 8;       // of a segment
constexpr std::size_t kShared = 48 << 10;  // of a block, unless one warp needs more
constexpr int kForward = 4, kBackward = 3; // blocks of a multiprocessor, by their registers

// Of a block at most: double needs the registers.
template <class A> constexpr int threads_of = sizeof(A) == sizeof(double) ? kThreads / 2 : kThreads;

// ---- who does what -------------------------------------------------------------------------------------------------

struct Schedule {
    int64_t units, segment, segments; // elements of a row, of a segment; segments of a row
    int lanes;                        // a power of two up to a warp

    int64_t warps(int64_t rows) const {
        const int64_t at_once = warp_size / lanes;
        return (rows + at_once - 1) / at_once * segments;
    }
};

Schedule schedule_of(int64_t units) {
    int lanes = 1;
    while (lanes < units && lanes < warp_size)
        lanes *= 2;
    const int64_t most = kUnitsPerLane * warp_size, segment = units < most ? units : most;
    return {units, segment, segment > 0 ? (units + segment - 1) / segment : 1, lanes};
}

// The columns of a warp: its elements' params one element after the other, `count` of them each, and at most one place
// that is nobody's.
struct Columns {
    int count, pitch;
    uint32_t over; // 2^32 / count, rounded up: exact for what stands in a tile

    explicit Columns(int64_t params)
        : count(static_cast<int>(params)), pitch(count | 1), over(0xffffffffu / static_cast<uint32_t>(count) + 1) {}
    // of the parameter with that number
    PFK_DEVICE int place(int at) const {
        return at + static_cast<int>(__umulhi(over, static_cast<unsigned>(at))) * (pitch - count);
    }
};

template <class Problem, class Index> struct Call {
    Problem p;
    Places<Index> places;
    Schedule schedule;
    Columns columns;
    int64_t shift; // from one parameter of an element to its next
};

// The part of a row that this lane works on: every `lanes`-th element of [first, last), in `turns` turns of the warp.
struct Share {
    int64_t row, first, last, segment;
    int turns, lane;
    bool leads; // writes the sum

    PFK_DEVICE Share(const Schedule& s) {
        const int64_t warp = static_cast<int64_t>(blockIdx.x) * (blockDim.x / warp_size) + threadIdx.x / warp_size;
        lane = static_cast<int>(threadIdx.x) % warp_size;
        segment = warp % s.segments;
        row = warp / s.segments * (warp_size / s.lanes) + lane / s.lanes;
        first = segment * s.segment + lane % s.lanes;
        last = min((segment + 1) * s.segment, s.units);
        turns = static_cast<int>((s.segment + s.lanes - 1) / s.lanes);
        leads = lane % s.lanes == 0;
    }
};

// ---- between global memory and the columns; the whole warp calls these ----------------------------------------------

// In all of it `param` is the offset of this lane's first parameter, negative where it has none.

// Loads of a lane on their way at a time, of a kernel that has so many blocks on a multiprocessor: for its bandwidth.
template <class P, int Blocks> constexpr int flying = (sizeof(P) == 2 ? 60 : 32) / Blocks;
constexpr int kApart = 8, kLeft = 4; // where each has an address of its own to remember; at the end

// The lanes that have params, if they are neighbours whose params are, which then are copied as one piece.
struct Run {
    int first, size;
    int64_t begin;
    bool whole;

    PFK_DEVICE Run(int64_t param, int count, int lane) {
        const unsigned present = __ballot_sync(full_warp, param >= 0);
        first = __ffs(static_cast<int>(present)) - 1;
        begin = __shfl_sync(full_warp, static_cast<long long>(param), first);
        const unsigned from_first = present >> first;
        size = __popc(present) * count;
        whole = (from_first & (from_first + 1)) == 0 &&
                __all_sync(full_warp, param < 0 || param == begin + static_cast<int64_t>(lane - first) * count);
    }
};

// Copies from[i * stride] to tile[to(at + i)] for so many i = 0, step .. below `left`.
template <int Flying, bool Whole, class P, class A, class To>
PFK_DEVICE void copy_some(const P* from, int64_t stride, int at, int step, int left, A* tile, To to) {
    P value[Flying] = {};
#pragma unroll
    for (int i = 0; i < Flying; ++i)
        if (Whole || i * step < left)
            value[i] = from[i * step * stride];
#pragma unroll
    for (int i = 0; i < Flying; ++i)
        if (Whole || i * step < left)
            tile[to(at + i * step)] = A(widen(value[i]));
}

// The same for at = first, first + step .. below size. Many are not asked, each, whether they are there.
template <int Flying, class P, class A, class To>
PFK_DEVICE void copy(const P* from, int64_t stride, int first, int step, int size, A* tile, To to) {
    int at = first;
    for (; at + (Flying - 1) * step < size; at += Flying * step)
        copy_some<Flying, true>(from + at * stride, stride, at, step, size - at, tile, to);
#pragma unroll 1
    for (; at < size; at += kLeft * step)
        copy_some<kLeft, false>(from + at * stride, stride, at, step, size - at, tile, to);
}

// One element after the other; columns of lanes without params hold anything.
template <class P, class A>
PFK_DEVICE void bring_each(const P* params, int64_t param, int64_t any, const Columns& columns, A* tile, int lane) {
    for (int first = 0; first < warp_size; first += kApart) {
        int64_t from[kApart];
#pragma unroll
        for (int i = 0; i < kApart; ++i)
            from[i] = __shfl_sync(full_warp, static_cast<long long>(param), first + i);
#pragma unroll 1 // or there were no registers for the addresses
        for (int p = lane; p < columns.count; p += warp_size) {
            P value[kApart];
#pragma unroll
            for (int i = 0; i < kApart; ++i)
                value[i] = params[(from[i] < 0 ? any : from[i]) + p];
#pragma unroll
            for (int i = 0; i < kApart; ++i)
                tile[(first + i) * columns.pitch + p] = A(widen(value[i]));
        }
    }
}

// Some lane has params.
template <int Blocks, class P, class A>
PFK_DEVICE void bring(const P* params, int64_t param, int64_t shift, const Columns& columns, A* tile, int lane) {
    if (shift == 1) { // an element's params are neighbours
        const Run run(param, columns.count, lane);
        if (run.whole)
            copy<flying<P, Blocks>>(params + run.begin, 1, lane, warp_size, run.size, tile + run.first * columns.pitch,
                                    [&](int at) { return columns.place(at); });
        else
            bring_each(params, param, run.begin, columns, tile, lane);
    } else if (param >= 0) {
        copy<flying<P, Blocks>>(params + param, shift, 0, 1, columns.count, tile + lane * columns.pitch,
                                [](int at) { return at; });
    }
    __syncwarp();
}

template <class P, class A>
PFK_DEVICE void take_back(const A* tile, int64_t param, int64_t shift, const Columns& columns, P* params, int lane) {
    __syncwarp();
    if (shift == 1) {
        const Run run(param, columns.count, lane);
        const A* const begin = tile + run.first * columns.pitch;
        for (int at = lane; run.whole && at < run.size; at += warp_size)
            params[run.begin + at] = narrow<P>(begin[columns.place(at)]);
        for (int other = 0; !run.whole && other < warp_size; ++other) {
            const int64_t to = __shfl_sync(full_warp, static_cast<long long>(param), other);
            if (to >= 0)
                for (int p = lane; p < columns.count; p += warp_size)
                    params[to + p] = narrow<P>(tile[other * columns.pitch + p]);
        }
    } else if (param >= 0) {
        for (int p = 0; p < columns.count; ++p)
            params[param + p * shift] = narrow<P>(tile[lane * columns.pitch + p]);
    }
    __syncwarp();
}

template <class A> PFK_DEVICE A* tile_of(const Columns& columns) {
    PFK_DYN_SHARED(A, tiles);
    return tiles + threadIdx.x / warp_size * static_cast<unsigned>(warp_size * columns.pitch);
}

// ---- kernels -------------------------------------------------------------------------------------------------------

template <class T, class P, class Index>
__global__ void __launch_bounds__(threads_of<arithmetic_t<T>>, kForward) forward(const Call<RqSpline, Index> call) {
    using A = arithmetic_t<T>;
    const Share share(call.schedule);
    const Spline& spline_of_call = call.p.spline;
    const SplineShape<A> shape = spline_of_call.shape<A>();
    A* const tile = tile_of<A>(call.columns);
    const bool present = share.row < call.p.rows;
    const T* const x = static_cast<const T*>(call.p.x) + share.row * call.p.x_stride;
    T* const y = static_cast<T*>(call.p.y) + share.row * call.p.size;
    const int64_t row_params = share.row * call.p.params_stride;
    A sum = 0;
    for (int turn = 0; turn < share.turns; ++turn) {
        const int64_t element = share.first + static_cast<int64_t>(turn) * call.schedule.lanes;
        const bool inside = present && element < share.last;
        const Place<Index> place = call.places.at(static_cast<Index>(inside ? element : 0), 1);
        const bool moved = inside && place.even;
        if (!__any_sync(full_warp, moved)) {
            if (inside)
                y[element] = x[element];
            continue;
        }
        const int64_t param = moved ? row_params + static_cast<int64_t>(place.param) : -1;
        bring<kForward>(static_cast<const P*>(call.p.params), param, call.shift, call.columns, tile, share.lane);
        if (moved) {
            A slope;
            y[element] =
                narrow<T>(move_by_spline(spline_of_call, shape, Column<A, 1>{tile + share.lane * call.columns.pitch},
                                         A(widen(x[element])), slope));
            sum += log(slope);
        } else if (inside) {
            y[element] = x[element];
        }
        __syncwarp();
    }
    for (int step = call.schedule.lanes / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(full_warp, sum, step);
    if (share.leads && present) {
        A* const sums = static_cast<A*>(call.schedule.segments > 1 ? call.p.scratch : call.p.ladj);
        sums[share.row * call.schedule.segments + share.segment] = spline_of_call.inverse ? -sum : sum;
    }
}

template <class T, class P, class Index>
__global__ void __launch_bounds__(threads_of<arithmetic_t<T>>, kBackward)
    backward(const Call<RqSplineBackward, Index> call) {
    using A = arithmetic_t<T>;
    const Share share(call.schedule);
    const Spline& spline_of_call = call.p.spline;
    const SplineShape<A> shape = spline_of_call.shape<A>();
    A* const tile = tile_of<A>(call.columns);
    const bool present = share.row < call.p.rows;
    const T* const u = static_cast<const T*>(call.p.u) + share.row * call.p.u_stride;
    const T* const dy = static_cast<const T*>(call.p.dy) + share.row * call.p.dy_stride;
    T* const dx = static_cast<T*>(call.p.dx) + share.row * call.p.size;
    const A dladj = present ? static_cast<const A*>(call.p.dladj)[share.row * call.p.dladj_stride] : A(0);
    for (int turn = 0; turn < share.turns; ++turn) {
        const int64_t element = share.first + static_cast<int64_t>(turn) * call.schedule.lanes;
        const bool inside = present && element < share.last;
        const Place<Index> place = call.places.at(static_cast<Index>(inside ? element : 0), 1);
        const bool moved = inside && place.even, has_params = inside && place.has_params;
        const int64_t param = static_cast<int64_t>(place.param);
        if (__any_sync(full_warp, moved))
            bring<kBackward>(static_cast<const P*>(call.p.params),
                             moved ? share.row * call.p.params_stride + param : -1, call.shift, call.columns, tile,
                             share.lane);
        const Column<A, 1> column = {tile + share.lane * call.columns.pitch};
        if (moved) {
            const P* const own = static_cast<const P*>(call.p.params) + share.row * call.p.params_stride + param;
            const auto given = [&](int k) { return A(widen(own[k * call.shift])); };
            dx[element] = narrow<T>(gradient_by_spline(spline_of_call, shape, column, given, A(widen(u[element])),
                                                       A(widen(dy[element])), dladj));
        } else if (inside) {
            dx[element] = dy[element];
            if (has_params)
                for (int p = 0; p < call.columns.count; ++p)
                    column[p] = A(0);
        }
        if (__any_sync(full_warp, has_params))
            take_back(tile, has_params ? share.row * call.p.param_size + param : -1, call.shift, call.columns,
                      static_cast<P*>(call.p.dparams), share.lane);
    }
}

// ---- launches ------------------------------------------------------------------------------------------------------

template <class A, class Index, class Problem, class Kernel>
cudaError_t run(const Problem& p, Kernel kernel, cudaStream_t stream) {
    const Call<Problem, Index> call = {p, places_of<Index>(p.event), schedule_of(p.size), Columns(p.event.params),
                                       shift_of(p.event)};
    const std::size_t tile = static_cast<std::size_t>(warp_size * call.columns.pitch) * sizeof(A);
    int warps = threads_of<A> / warp_size;
    while (warps > 1 && static_cast<std::size_t>(warps) * tile > kShared)
        warps /= 2;
    const int64_t blocks = (call.schedule.warps(p.rows) + warps - 1) / warps;
    return launch(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(warps * warp_size),
                  static_cast<std::size_t>(warps) * tile, stream, call);
}

template <class Problem> bool narrow_index(const Problem& p) { return p.size + p.param_size < (int64_t(1) << 31); }

} // namespace

int64_t rq_spline_scratch(const RqSpline& p) {
    const int64_t segments = schedule_of(p.size).segments;
    return segments > 1 ? p.rows * segments : 0;
}

Error rq_spline(const RqSpline& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return with_types(p.state, p.param, [&](auto state, auto param) {
        using T = typename decltype(state)::type;
        using P = typename decltype(param)::type;
        using A = arithmetic_t<T>;
        const cudaError_t error = narrow_index(p) ? run<A, uint32_t>(p, forward<T, P, uint32_t>, on)
                                                  : run<A, uint64_t>(p, forward<T, P, uint64_t>, on);
        const int64_t segments = schedule_of(p.size).segments;
        if (error != cudaSuccess || segments == 1)
            return error;
        return launch_sums(static_cast<const A*>(p.scratch), static_cast<A*>(p.ladj), p.rows, segments, on);
    });
}

Error rq_spline_backward(const RqSplineBackward& p, void* stream) {
    if (p.rows == 0 || p.size == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return with_types(p.state, p.param, [&](auto state, auto param) {
        using T = typename decltype(state)::type;
        using P = typename decltype(param)::type;
        using A = arithmetic_t<T>;
        return narrow_index(p) ? run<A, uint32_t>(p, backward<T, P, uint32_t>, on)
                               : run<A, uint64_t>(p, backward<T, P, uint64_t>, on);
    });
}

} // namespace pfk::cuda
