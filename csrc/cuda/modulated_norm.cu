// modulated_norm on the GPU: a token belongs to a warp or a block, by its size alone, and passes over its row again
// from the first cache. What scale and shift get is summed by stretches of tokens, then over these, always in one
// order.
//
// Rows that 128-bit accesses fit into take the vector path; the others go element by element.

#include "../math/elementary.h"
#include "../math/modulated_norm.h"
#include "masked.cuh"

namespace pfk::cuda {
namespace {

constexpr int64_t kLongRow = 1024; // elements from which a block serves a token
constexpr int64_t kStretch = 32;   // tokens that a warp sums up

// ---- N elements of a row --------------------------------------------------------------------------------------------

template <class A, int N> struct Unit {
    A at[N];
};

template <int N, class T> PFK_DEVICE Unit<arithmetic_t<T>, N> read(const T* from) {
    const Vec<T, N> v = vload<N>(from);
    Unit<arithmetic_t<T>, N> unit;
#pragma unroll
    for (int i = 0; i < N; ++i)
        unit.at[i] = widen(v[i]);
    return unit;
}

template <int N, class T> PFK_DEVICE void write(T* to, const Unit<arithmetic_t<T>, N>& unit) {
    Vec<T, N> v;
#pragma unroll
    for (int i = 0; i < N; ++i)
        v[i] = narrow<T>(unit.at[i]);
    vstore<N>(to, v);
}

// What an event says of its tokens is of another type: beside floats it may have 16 bits.
template <class A, int N, class P> PFK_DEVICE Unit<A, N> read_params(const P* from) {
    const Vec<P, N> v = vload<N>(from);
    Unit<A, N> unit;
#pragma unroll
    for (int i = 0; i < N; ++i)
        unit.at[i] = static_cast<A>(widen(v[i]));
    return unit;
}

// ---- sums over a row: every `Lanes`-th unit is a lane's -------------------------------------------------------------

template <int Lanes, class A> PFK_DEVICE A over_lanes(A sum) {
    if constexpr (Lanes == kThreads)
        return block_reduce<kThreads>(sum);
    else
        return warp_reduce(sum);
}

template <int N, int Lanes, class T>
PFK_DEVICE Moments<arithmetic_t<T>> moments(const T* x, int size, int lane, bool rms, arithmetic_t<T> eps) {
    using A = arithmetic_t<T>;
    const A part = A(1) / static_cast<A>(size);
    A mean = 0;
    if (!rms) {
#pragma unroll 2
        for (int j = lane * N; j < size; j += Lanes * N) {
            const Unit<A, N> v = read<N>(x + j);
#pragma unroll
            for (int i = 0; i < N; ++i)
                mean += v.at[i];
        }
        mean = over_lanes<Lanes>(mean) * part;
    }
    A squares = 0;
#pragma unroll 2
    for (int j = lane * N; j < size; j += Lanes * N) {
        const Unit<A, N> v = read<N>(x + j);
#pragma unroll
        for (int i = 0; i < N; ++i)
            squares += (v.at[i] - mean) * (v.at[i] - mean);
    }
    return {mean, A(1) / detail::root_of(over_lanes<Lanes>(squares) * part + eps)};
}

template <class A> struct Through {
    A mean, along; // of v, as `through_norm` wants them
};

template <int N, int Lanes, class T, class Body>
PFK_DEVICE Through<arithmetic_t<T>> look(const T* x, Moments<arithmetic_t<T>> norm, int size, int lane, bool rms,
                                         Body v_at) {
    using A = arithmetic_t<T>;
    const A part = A(1) / static_cast<A>(size);
    A mean = 0, along = 0;
#pragma unroll 2
    for (int j = lane * N; j < size; j += Lanes * N) {
        const Unit<A, N> at = read<N>(x + j), v = v_at(j);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            mean += v.at[i];
            along += v.at[i] * normalised(at.at[i], norm);
        }
    }
    mean = rms ? A(0) : over_lanes<Lanes>(mean) * part;
    return {mean, over_lanes<Lanes>(along) * part};
}

// ---- a token each ---------------------------------------------------------------------------------------------------

struct Token {
    int64_t row, event, token;
    int lane, size;
};

// Rows are fewer than 2^32, and a division of 64 bits would be a call.
template <int Lanes> PFK_DEVICE Token this_token(const ModulatedNorm& p) {
    const unsigned thread = threadIdx.x, row = blockIdx.x * (kThreads / Lanes) + thread / Lanes;
    const unsigned tokens = static_cast<unsigned>(p.tokens), event = row / tokens;
    return {row, event, row - event * tokens, static_cast<int>(thread % Lanes), static_cast<int>(p.size)};
}

template <int Lanes, class T, class P, int N>
__global__ void __launch_bounds__(kThreads) forward(const ModulatedNorm p) {
    using A = arithmetic_t<T>;
    const Token at = this_token<Lanes>(p);
    if (at.row >= p.events * p.tokens) // a whole warp or block
        return;
    const T* const x = static_cast<const T*>(p.x) + at.event * p.x_stride + at.token * p.size;
    const P* const scale = static_cast<const P*>(p.scale) + at.event * p.scale_stride;
    const P* const shift = static_cast<const P*>(p.shift) + at.event * p.shift_stride;
    T* const y = static_cast<T*>(p.y) + at.row * p.size;
    const Moments<A> norm = moments<N, Lanes>(x, at.size, at.lane, p.rms, static_cast<A>(p.eps));
#pragma unroll 2
    for (int j = at.lane * N; j < at.size; j += Lanes * N) {
        Unit<A, N> v = read<N>(x + j);
        const Unit<A, N> a = read_params<A, N>(scale + j), b = read_params<A, N>(shift + j);
#pragma unroll
        for (int i = 0; i < N; ++i)
            v.at[i] = normalised(v.at[i], norm) * (A(1) + a.at[i]) + b.at[i];
        write<N>(y + j, v);
    }
}

// The tangents; `forward` gives the values.
template <int Lanes, class T, class P, int N>
__global__ void __launch_bounds__(kThreads) tangents(const ModulatedNorm p) {
    using A = arithmetic_t<T>;
    const Token at = this_token<Lanes>(p);
    if (at.row >= p.events * p.tokens)
        return;
    const T* const x = static_cast<const T*>(p.x) + at.event * p.x_stride + at.token * p.size;
    const P* const scale = static_cast<const P*>(p.scale) + at.event * p.scale_stride;
    const Moments<A> norm = moments<N, Lanes>(x, at.size, at.lane, p.rms, static_cast<A>(p.eps));
    for (int64_t k = 0; k < p.tangents; ++k) {
        const T* const v = static_cast<const T*>(p.vx) + at.event * p.vx_stride + (k * p.tokens + at.token) * p.size;
        const P* const bend = static_cast<const P*>(p.vscale) + at.event * p.vscale_stride + k * p.size;
        const P* const move = static_cast<const P*>(p.vshift) + at.event * p.vshift_stride + k * p.size;
        T* const vy = static_cast<T*>(p.vy) + ((at.event * p.tangents + k) * p.tokens + at.token) * p.size;
        const Through<A> sums = look<N, Lanes>(x, norm, at.size, at.lane, p.rms, [&](int j) { return read<N>(v + j); });
#pragma unroll 1
        for (int j = at.lane * N; j < at.size; j += Lanes * N) {
            const Unit<A, N> from = read<N>(x + j), a = read_params<A, N>(scale + j);
            Unit<A, N> image = read<N>(v + j), g = {}, h = {};
            if (p.moving) {
                g = read_params<A, N>(bend + j);
                h = read_params<A, N>(move + j);
            }
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const A n = normalised(from.at[i], norm);
                image.at[i] = through_norm(image.at[i], n, norm.rate, sums.mean, sums.along) * (A(1) + a.at[i]) +
                              (n * g.at[i] + h.at[i]);
            }
            write<N>(vy + j, image);
        }
    }
}

// dx, and the moments for the sums over tokens.
template <int Lanes, class T, class P, int N>
__global__ void __launch_bounds__(kThreads) backward(const ModulatedNorm p) {
    using A = arithmetic_t<T>;
    const Token at = this_token<Lanes>(p);
    if (at.row >= p.events * p.tokens)
        return;
    const T* const x = static_cast<const T*>(p.x) + at.event * p.x_stride + at.token * p.size;
    const T* const dy = static_cast<const T*>(p.dy) + at.event * p.dy_stride + at.token * p.size;
    const P* const scale = static_cast<const P*>(p.scale) + at.event * p.scale_stride;
    T* const dx = static_cast<T*>(p.dx) + at.row * p.size;
    const Moments<A> norm = moments<N, Lanes>(x, at.size, at.lane, p.rms, static_cast<A>(p.eps));
    const auto v_at = [&](int j) {
        Unit<A, N> v = read<N>(dy + j);
        const Unit<A, N> a = read_params<A, N>(scale + j);
#pragma unroll
        for (int i = 0; i < N; ++i)
            v.at[i] *= A(1) + a.at[i];
        return v;
    };
    const Through<A> sums = look<N, Lanes>(x, norm, at.size, at.lane, p.rms, v_at);
#pragma unroll 2
    for (int j = at.lane * N; j < at.size; j += Lanes * N) {
        const Unit<A, N> from = read<N>(x + j);
        Unit<A, N> v = v_at(j);
#pragma unroll
        for (int i = 0; i < N; ++i)
            v.at[i] = through_norm(v.at[i], normalised(from.at[i], norm), norm.rate, sums.mean, sums.along);
        write<N>(dx + j, v);
    }
    if (at.lane == 0)
        static_cast<Moments<A>*>(p.scratch)[at.row] = norm;
}

// ---- sums over tokens -----------------------------------------------------------------------------------------------

int64_t stretches(const ModulatedNorm& p) { return (p.tokens + kStretch - 1) / kStretch; }

// After the moments in scratch: (events, stretches, 2, size), the parts of dscale and of dshift.
template <class A> PFK_DEVICE A* parts_of(const ModulatedNorm& p) {
    return static_cast<A*>(p.scratch) + 2 * p.events * p.tokens;
}

constexpr int kColumns = 8; // units side by side that a warp sums up; its other lanes are further tokens

// A warp for a stretch of tokens and kColumns units.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) sum_stretches(const ModulatedNorm p, const int64_t stretches) {
    using A = arithmetic_t<T>;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size;
    const int64_t warp = static_cast<int64_t>(blockIdx.x) * (kThreads / warp_size) + thread / warp_size;
    const int64_t blocks = (p.size + kColumns * N - 1) / (kColumns * N);
    const int64_t stretch = warp / blocks % stretches, event = warp / (blocks * stretches);
    if (event >= p.events) // a whole warp
        return;
    const int64_t j = (warp % blocks * kColumns + lane % kColumns) * N;
    const int64_t last = min((stretch + 1) * kStretch, p.tokens);
    const T* const x = static_cast<const T*>(p.x) + event * p.x_stride + j;
    const T* const dy = static_cast<const T*>(p.dy) + event * p.dy_stride + j;
    const Moments<A>* const norms = static_cast<const Moments<A>*>(p.scratch) + event * p.tokens;
    Unit<A, N> dscale = {}, dshift = {};
    if (j < p.size)
        for (int64_t token = stretch * kStretch + lane / kColumns; token < last; token += warp_size / kColumns) {
            const Unit<A, N> at = read<N>(x + token * p.size), g = read<N>(dy + token * p.size);
            const Moments<A> norm = norms[token];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                dscale.at[i] += g.at[i] * normalised(at.at[i], norm);
                dshift.at[i] += g.at[i];
            }
        }
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int step = warp_size / 2; step >= kColumns; step /= 2) {
            dscale.at[i] += __shfl_xor_sync(full_warp, dscale.at[i], step);
            dshift.at[i] += __shfl_xor_sync(full_warp, dshift.at[i], step);
        }
    if (lane < kColumns && j < p.size) {
        A* const parts = parts_of<A>(p) + 2 * (event * stretches + stretch) * p.size + j;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            parts[i] = dscale.at[i];
            parts[p.size + i] = dshift.at[i];
        }
    }
}

// A thread for a number of dscale or dshift.
template <class A, class P>
__global__ void __launch_bounds__(kThreads) add_stretches(const ModulatedNorm p, const int64_t stretches) {
    const int64_t place = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t event = place / (2 * p.size), which = place - event * 2 * p.size;
    if (event >= p.events)
        return;
    const A* const parts = parts_of<A>(p) + 2 * event * stretches * p.size + which;
    A sum = 0;
    for (int64_t stretch = 0; stretch < stretches; ++stretch)
        sum += parts[2 * stretch * p.size];
    P* const to = static_cast<P*>(which < p.size ? p.dscale : p.dshift) + event * p.size;
    to[which < p.size ? which : which - p.size] = narrow<P>(static_cast<arithmetic_t<P>>(sum));
}

// ---- launches -------------------------------------------------------------------------------------------------------

// May rows that begin at `data` and lie `stride` elements apart be read in vectors?
template <class T, int N> bool fits(const void* data, int64_t stride) {
    return is_aligned(data, sizeof(T) * N) && stride % N == 0;
}

template <class T, class P, int N> bool vectorised(const ModulatedNorm& p) {
    return p.size % N == 0 && fits<T, N>(p.x, p.x_stride) && fits<T, N>(p.y, 0) && fits<T, N>(p.vx, p.vx_stride) &&
           fits<T, N>(p.vy, 0) && fits<T, N>(p.dy, p.dy_stride) && fits<T, N>(p.dx, 0) &&
           fits<P, N>(p.scale, p.scale_stride) && fits<P, N>(p.shift, p.shift_stride) &&
           fits<P, N>(p.vscale, p.vscale_stride) && fits<P, N>(p.vshift, p.vshift_stride);
}

// Are there fewer rows than 2^32, of fewer elements than 2^31?
bool countable(const ModulatedNorm& p) { return p.events * p.tokens < int64_t(1) << 32 && p.size < int64_t(1) << 31; }

unsigned blocks_of(int64_t work, int64_t each) { return static_cast<unsigned>((work + each - 1) / each); }

// Calls body(Type<T>, Type<P>, width) with the types and the vectors' width that the problem asks for.
template <class Body> cudaError_t with_width(const ModulatedNorm& p, Body body) {
    return with_types(p.state, p.param, [&](auto state, auto param) {
        using T = typename decltype(state)::type;
        using P = typename decltype(param)::type;
        constexpr int wide = vector_width<T>;
        return vectorised<T, P, wide>(p) ? body(state, param, std::integral_constant<int, wide>{})
                                         : body(state, param, std::integral_constant<int, 1>{});
    });
}

// A warp for every token, or a block where rows are long; in double precision a block's registers would not suffice.
#define PFK_TOKENS(kernel, p, stream)                                                                                  \
    with_width(p, [&](auto state, auto param, auto width) {                                                            \
        using T = typename decltype(state)::type;                                                                      \
        using P = typename decltype(param)::type;                                                                      \
        constexpr int N = decltype(width)::value, Most = sizeof(T) == 8 ? warp_size : kThreads;                        \
        const int64_t rows = p.events * p.tokens;                                                                      \
        return p.size >= kLongRow                                                                                      \
                   ? launch(kernel<Most, T, P, N>, blocks_of(rows, kThreads / Most), kThreads, 0, stream, p)           \
                   : launch(kernel<warp_size, T, P, N>, blocks_of(rows, kThreads / warp_size), kThreads, 0, stream,    \
                            p);                                                                                        \
    })

} // namespace

Error modulated_norm(const ModulatedNorm& p, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    if (!countable(p))
        return cudaErrorInvalidValue;
    return p.events * p.tokens == 0 || p.size == 0 ? cudaSuccess : PFK_TOKENS(forward, p, on);
}

Error modulated_norm_tangents(const ModulatedNorm& p, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    const Error error = modulated_norm(p, stream);
    return error != cudaSuccess || p.events * p.tokens * p.tangents == 0 || p.size == 0 ? error
                                                                                        : PFK_TOKENS(tangents, p, on);
}

int64_t modulated_norm_backward_scratch(const ModulatedNorm& p) {
    return 2 * p.events * (p.tokens + stretches(p) * p.size);
}

Error modulated_norm_backward(const ModulatedNorm& p, void* stream) {
    if (!countable(p))
        return cudaErrorInvalidValue;
    if (p.events * p.size == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    if (p.tokens > 0) {
        Error error = PFK_TOKENS(backward, p, on);
        if (error != cudaSuccess)
            return error;
        error = with_width(p, [&](auto state, auto, auto width) {
            constexpr int N = decltype(width)::value;
            const int64_t warps = p.events * stretches(p) * ((p.size + kColumns * N - 1) / (kColumns * N));
            return launch(sum_stretches<typename decltype(state)::type, N>, blocks_of(warps, kThreads / warp_size),
                          kThreads, 0, on, p, stretches(p));
        });
        if (error != cudaSuccess)
            return error;
    }
    return with_types(p.state, p.param, [&](auto state, auto param) {
        using A = arithmetic_t<typename decltype(state)::type>;
        return launch(add_stretches<A, typename decltype(param)::type>, blocks_of(2 * p.events * p.size, kThreads),
                      kThreads, 0, on, p, stretches(p));
    });
}

} // namespace pfk::cuda
