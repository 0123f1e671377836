// affine_coupling on the CPU: rows one after another, 16 elements abreast. Compiled once per instruction set.
//
// Unit-stride float and double runs are worked on where they lie; everything else (16-bit types, alternating and
// checkerboard masks, interleaved params, events of a few elements) is staged through small buffers, several rows at a
// time when rows are short, and meets the same arithmetic there.

#include "../math/affine_coupling.h"
#include "masked.h"

namespace pfk::cpu {
namespace {

// The loops that the compiler vectorises; n is a multiple of kLanes.
template <bool Inverse, Bound K, class A>
inline __attribute__((always_inline)) void move_lanes(const A* x, const A* raw, const A* t, A* y, A* s, int64_t n,
                                                      A limit) {
    const A inverse_limit = A(1) / limit;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        y[i] = affine<Inverse, K, A>(x[i], K == Bound::Additive ? A(0) : raw[i], t[i], limit, inverse_limit, s[i]);
}

template <bool Inverse, Bound K, class A>
inline __attribute__((always_inline)) void gradient_lanes(const A* y, const A* raw, const A* t, const A* dy,
                                                          const A* dladj, A* dx, A* draw, A* dt, int64_t n, A limit) {
    const A inverse_limit = A(1) / limit;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const auto g = affine_gradient<Inverse, K, A>(y[i], K == Bound::Additive ? A(0) : raw[i], t[i], dy[i], dladj[i],
                                                      limit, inverse_limit);
        dx[i] = g.x;
        if (K != Bound::Additive)
            draw[i] = g.raw;
        dt[i] = g.t;
    }
}

// The staged kernels know the types in memory, the arithmetic knows direction and bound: they meet at these pointers.
template <class A> struct Arithmetic {
    void (*move)(const A*, const A*, const A*, A*, A*, int64_t, A);
    void (*gradient)(const A*, const A*, const A*, const A*, const A*, A*, A*, A*, int64_t, A);
};

template <class A> struct Staged {
    alignas(64) A x[kTile], raw[kTile], t[kTile], y[kTile], s[kTile];
};

template <class A> struct StagedBackward {
    alignas(64) A y[kTile], raw[kTile], t[kTile], dy[kTile], dladj[kTile], dx[kTile], draw[kTile], dt[kTile];
};

template <class A> void clear_padding(A* buffer, int64_t n) {
    for (int64_t i = n; i < padded(n); ++i)
        buffer[i] = A(0);
}

// ---- forward and inverse -------------------------------------------------------------------------------------------

template <class T, class P, class A>
void forward_staged(const AffineCoupling& p, const Runs& runs, Arithmetic<A> arithmetic, int64_t begin, int64_t end) {
    Staged<A> b;
    const bool scales = p.bound != Bound::Additive;
    const Identity identity(p.event, p.size);
    const Walk first_walk(p.event, runs);
    Walk walk = first_walk;
    RowSum<A> sum;
    for_tiles(begin, end, moved_elements(p.event), [&](int64_t first, int64_t last, int64_t n, bool starts, bool ends) {
        const Walk start = starts ? first_walk : walk;
        const int64_t all = (last - first) * n;
        for (int64_t row = first, at = 0; row < last; ++row, at += n) {
            const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
            const P* params = static_cast<const P*>(p.params) + row * p.params_stride;
            if (starts)
                identity.copy(x, static_cast<T*>(p.y) + row * p.y_stride);
            walk = start;
            walk.go(n, [&](int64_t xo, int64_t po, int64_t position, int64_t length) {
                gather(x + xo, runs.x_step, b.x + at + position, length);
                if (scales)
                    gather(params + po, runs.param_step, b.raw + at + position, length);
                gather(params + po + runs.shift, runs.param_step, b.t + at + position, length);
            });
        }
        clear_padding(b.x, all);
        clear_padding(b.raw, all);
        clear_padding(b.t, all);
        arithmetic.move(b.x, b.raw, b.t, b.y, b.s, padded(all), static_cast<A>(p.limit));
        for (int64_t row = first, at = 0; row < last; ++row, at += n) {
            T* y = static_cast<T*>(p.y) + row * p.y_stride;
            walk = start;
            walk.go(n, [&](int64_t xo, int64_t, int64_t position, int64_t length) {
                scatter(b.y + at + position, y + xo, runs.x_step, length);
            });
            A total = A(0);
            if (n < kLanes && starts && ends) { // one element a lane at most: no lanes needed
                for (int64_t k = 0; k < n; ++k)
                    total += b.s[at + k];
            } else {
                if (starts)
                    sum = {};
                sum.add(b.s + at, n);
                if (!ends)
                    continue;
                total = sum.total();
            }
            static_cast<A*>(p.ladj)[row] = p.inverse ? -total : total;
        }
    });
}

template <bool Inverse, Bound K, class A>
void forward_direct(const AffineCoupling& p, const Runs& runs, int64_t begin, int64_t end) {
    alignas(64) A s[kTile];
    const A limit = static_cast<A>(p.limit);
    const Identity identity(p.event, p.size);
    const Run only = run_at(p.event, runs, 0);
    for (int64_t row = begin; row < end; ++row) {
        const A* x = static_cast<const A*>(p.x) + row * p.x_stride;
        const A* params = static_cast<const A*>(p.params) + row * p.params_stride;
        A* y = static_cast<A*>(p.y) + row * p.y_stride;
        identity.copy(x, y);
        RowSum<A> sum;
        for (int64_t i = 0; i < runs.count; ++i) {
            const Run run = i == 0 ? only : run_at(p.event, runs, i);
            const A *xr = x + run.x, *raw = params + run.param, *t = raw + runs.shift;
            A* yr = y + run.x;
            const int64_t whole = whole_lanes(run.length);
            for (int64_t k = 0; k < whole; k += kTile) {
                const int64_t n = whole - k < kTile ? whole - k : kTile;
                move_lanes<Inverse, K, A>(xr + k, raw + k, t + k, yr + k, s, n, limit);
                if (K != Bound::Additive)
                    sum.add_lanes(s, n);
            }
            if (const int64_t rest = run.length - whole) {
                alignas(64) A bx[kLanes] = {}, braw[kLanes] = {}, bt[kLanes] = {}, by[kLanes];
                copy(xr + whole, bx, rest);
                if (K != Bound::Additive)
                    copy(raw + whole, braw, rest);
                copy(t + whole, bt, rest);
                move_lanes<Inverse, K, A>(bx, braw, bt, by, s, kLanes, limit);
                copy(by, yr + whole, rest);
                for (int64_t l = rest; l < kLanes; ++l)
                    s[l] = A(0);
                sum.add_lanes(s, kLanes);
            }
        }
        const A total = sum.total();
        static_cast<A*>(p.ladj)[row] = Inverse ? -total : total;
    }
}

// ---- backward ------------------------------------------------------------------------------------------------------

template <class T, class P, class A>
void backward_staged(const AffineCouplingBackward& p, const Runs& runs, Arithmetic<A> arithmetic, int64_t begin,
                     int64_t end) {
    StagedBackward<A> b;
    const bool scales = p.bound != Bound::Additive;
    const Identity identity(p.event, p.size);
    const Walk first_walk(p.event, runs);
    Walk walk = first_walk;
    for_tiles(begin, end, moved_elements(p.event), [&](int64_t first, int64_t last, int64_t n, bool starts, bool) {
        const Walk start = starts ? first_walk : walk;
        const int64_t all = (last - first) * n;
        for (int64_t row = first, at = 0; row < last; ++row, at += n) {
            const T* y = static_cast<const T*>(p.y) + row * p.y_stride;
            const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
            const P* params = static_cast<const P*>(p.params) + row * p.params_stride;
            if (starts) {
                identity.copy(dy, static_cast<T*>(p.dx) + row * p.size);
                if (is_checkerboard(p.event.mask)) // params at identity positions have no influence
                    __builtin_memset(static_cast<P*>(p.dparams) + row * p.param_size, 0,
                                     static_cast<size_t>(p.param_size) * sizeof(P));
            }
            walk = start;
            walk.go(n, [&](int64_t xo, int64_t po, int64_t position, int64_t length) {
                gather(y + xo, runs.x_step, b.y + at + position, length);
                gather(dy + xo, runs.x_step, b.dy + at + position, length);
                if (scales)
                    gather(params + po, runs.param_step, b.raw + at + position, length);
                gather(params + po + runs.shift, runs.param_step, b.t + at + position, length);
            });
            const A dladj = static_cast<const A*>(p.dladj)[row * p.dladj_stride];
            for (int64_t i = 0; i < n; ++i)
                b.dladj[at + i] = dladj;
        }
        clear_padding(b.y, all);
        clear_padding(b.raw, all);
        clear_padding(b.t, all);
        clear_padding(b.dy, all);
        clear_padding(b.dladj, all);
        arithmetic.gradient(b.y, b.raw, b.t, b.dy, b.dladj, b.dx, b.draw, b.dt, padded(all), static_cast<A>(p.limit));
        for (int64_t row = first, at = 0; row < last; ++row, at += n) {
            T* dx = static_cast<T*>(p.dx) + row * p.size;
            P* dparams = static_cast<P*>(p.dparams) + row * p.param_size;
            walk = start;
            walk.go(n, [&](int64_t xo, int64_t po, int64_t position, int64_t length) {
                scatter(b.dx + at + position, dx + xo, runs.x_step, length);
                if (scales)
                    scatter(b.draw + at + position, dparams + po, runs.param_step, length);
                scatter(b.dt + at + position, dparams + po + runs.shift, runs.param_step, length);
            });
        }
    });
}

template <bool Inverse, Bound K, class A>
void backward_direct(const AffineCouplingBackward& p, const Runs& runs, int64_t begin, int64_t end) {
    alignas(64) A dladj[kTile];
    const A limit = static_cast<A>(p.limit);
    const int64_t filled = p.size < kTile ? padded(p.size) : kTile;
    const Identity identity(p.event, p.size);
    const Run only = run_at(p.event, runs, 0);
    for (int64_t row = begin; row < end; ++row) {
        const A* y = static_cast<const A*>(p.y) + row * p.y_stride;
        const A* dy = static_cast<const A*>(p.dy) + row * p.dy_stride;
        const A* params = static_cast<const A*>(p.params) + row * p.params_stride;
        A* dx = static_cast<A*>(p.dx) + row * p.size;
        A* dparams = static_cast<A*>(p.dparams) + row * p.param_size;
        identity.copy(dy, dx);
        const A value = static_cast<const A*>(p.dladj)[row * p.dladj_stride];
        for (int64_t i = 0; i < filled; ++i)
            dladj[i] = value;
        for (int64_t i = 0; i < runs.count; ++i) {
            const Run run = i == 0 ? only : run_at(p.event, runs, i);
            const int64_t whole = whole_lanes(run.length), xo = run.x, po = run.param, to = po + runs.shift;
            for (int64_t k = 0; k < whole; k += kTile) {
                const int64_t n = whole - k < kTile ? whole - k : kTile;
                gradient_lanes<Inverse, K, A>(y + xo + k, params + po + k, params + to + k, dy + xo + k, dladj,
                                              dx + xo + k, dparams + po + k, dparams + to + k, n, limit);
            }
            if (const int64_t rest = run.length - whole) {
                alignas(64) A by[kLanes] = {}, braw[kLanes] = {}, bt[kLanes] = {}, bdy[kLanes] = {};
                alignas(64) A bdx[kLanes], bdraw[kLanes], bdt[kLanes];
                copy(y + xo + whole, by, rest);
                if (K != Bound::Additive)
                    copy(params + po + whole, braw, rest);
                copy(params + to + whole, bt, rest);
                copy(dy + xo + whole, bdy, rest);
                gradient_lanes<Inverse, K, A>(by, braw, bt, bdy, dladj, bdx, bdraw, bdt, kLanes, limit);
                copy(bdx, dx + xo + whole, rest);
                if (K != Bound::Additive)
                    copy(bdraw, dparams + po + whole, rest);
                copy(bdt, dparams + to + whole, rest);
            }
        }
    }
}

// ---- from run-time choices to templates ----------------------------------------------------------------------------

// Long unit-stride runs of the arithmetic's own type need no staging.
template <class Problem> bool direct(const Problem& p, const Runs& runs) {
    return p.state == p.param && (p.state == DType::F32 || p.state == DType::F64) && runs.x_step == 1 &&
           runs.param_step == 1 && moved_elements(p.event) >= kLanes * runs.count;
}

// Calls body(direction, bound) with both as compile-time constants.
template <Bound Value> struct Kind {
    static constexpr Bound value = Value;
};

template <class Body> void with_map(bool inverse, Bound bound, Body body) {
    const auto with_bound = [&](auto kind) { inverse ? body(Flag<true>{}, kind) : body(Flag<false>{}, kind); };
    switch (bound) {
    case Bound::Additive:
        return with_bound(Kind<Bound::Additive>{});
    case Bound::None:
        return with_bound(Kind<Bound::None>{});
    case Bound::Tanh:
        return with_bound(Kind<Bound::Tanh>{});
    case Bound::Sigmoid:
        return with_bound(Kind<Bound::Sigmoid>{});
    default:
        return; // no coupling's: refused by bind
    }
}

template <class A> Arithmetic<A> arithmetic_of(bool inverse, Bound bound) {
    Arithmetic<A> chosen{};
    with_map(inverse, bound, [&](auto direction, auto kind) {
        constexpr bool inverse_map = decltype(direction)::value;
        constexpr Bound bound_map = decltype(kind)::value;
        chosen = {move_lanes<inverse_map, bound_map, A>, gradient_lanes<inverse_map, bound_map, A>};
    });
    return chosen;
}

} // namespace

namespace PFK_ISA {

void affine_coupling(const AffineCoupling& p, int64_t begin, int64_t end) {
    const Runs runs = runs_of(p.event);
    if (direct(p, runs))
        return with_map(p.inverse, p.bound, [&](auto direction, auto kind) {
            constexpr bool inverse = decltype(direction)::value;
            constexpr Bound bound = decltype(kind)::value;
            p.state == DType::F64 ? forward_direct<inverse, bound, double>(p, runs, begin, end)
                                  : forward_direct<inverse, bound, float>(p, runs, begin, end);
        });
    with_types(p.state, p.param, [&](auto state, auto param) {
        using A = typename Accumulator<decltype(state)>::Type;
        forward_staged<decltype(state), decltype(param), A>(p, runs, arithmetic_of<A>(p.inverse, p.bound), begin, end);
    });
}

void affine_coupling_backward(const AffineCouplingBackward& p, int64_t begin, int64_t end) {
    const Runs runs = runs_of(p.event);
    if (direct(p, runs))
        return with_map(p.inverse, p.bound, [&](auto direction, auto kind) {
            constexpr bool inverse = decltype(direction)::value;
            constexpr Bound bound = decltype(kind)::value;
            p.state == DType::F64 ? backward_direct<inverse, bound, double>(p, runs, begin, end)
                                  : backward_direct<inverse, bound, float>(p, runs, begin, end);
        });
    with_types(p.state, p.param, [&](auto state, auto param) {
        using A = typename Accumulator<decltype(state)>::Type;
        backward_staged<decltype(state), decltype(param), A>(p, runs, arithmetic_of<A>(p.inverse, p.bound), begin, end);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
