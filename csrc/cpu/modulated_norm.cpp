// modulated_norm on the CPU: a token's row is read from memory once and from the first cache after that. Compiled once
// per instruction set.

#include "../math/modulated_norm.h"
#include "../math/elementary.h"
#include "scratch.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

// ---- sums over a row ------------------------------------------------------------------------------------------------

// What is read at a time: a register's elements, or one.
template <class A> struct Many {
    using Value = typename RegisterOf<A>::Type;
    PFK_HD_MEMBER Value operator()(const A* from) const { return *reinterpret_cast<const Value*>(from); }
};
template <class A> struct One {
    using Value = A;
    PFK_HD_MEMBER Value operator()(const A* from) const { return *from; }
};

// Sums of d and d^2, for d = x less a centre, and of v and v d for a v that goes through the norm.
template <class Read> struct Terms {
    typename Read::Value d, dd, v, vd;
    PFK_HD_MEMBER void add(const Terms& other) { d += other.d, dd += other.dd, v += other.v, vd += other.vd; }
};

// across.at[step] swaps lanes that are a half, a quarter, ... of a register apart.
template <class Int, int64_t lanes> struct Across {
    Int at[4][lanes] = {};
    constexpr Across() {
        for (int64_t half = lanes / 2, step = 0; half > 0; half /= 2, ++step)
            for (int64_t l = 0; l < lanes; ++l)
                at[step][l] = static_cast<Int>(l ^ half);
    }
};
template <int Bytes> struct IntOf {
    using Type = int32_t;
};
template <> struct IntOf<8> {
    using Type = int64_t;
};

// The sum of a register's lanes, as a tree.
template <class A> PFK_HD A lane_sum(typename Many<A>::Value v) {
    constexpr int64_t lanes = RegisterOf<A>::lanes;
    using Int = typename IntOf<sizeof(A)>::Type;
    typedef Int Index __attribute__((vector_size(kRegister), aligned(sizeof(A)), may_alias));
    static constexpr Across<Int, lanes> across;
    for (int64_t half = lanes / 2, step = 0; half > 0; half /= 2, ++step)
        v += __builtin_shuffle(v, *reinterpret_cast<const Index*>(across.at[step]));
    return v[0];
}

// Of a row of n, in an order that n alone tells; at(read, i) gives the terms of the elements from i on, as many as
// `read` takes.
template <class A, class Body> inline __attribute__((always_inline)) Terms<One<A>> row_sums(int64_t n, const Body& at) {
    constexpr int64_t width = RegisterOf<A>::lanes;
    Terms<Many<A>> even{}, odd{};
    int64_t i = 0;
    for (; i + 2 * width <= n; i += 2 * width) {
        even.add(at(Many<A>{}, i));
        odd.add(at(Many<A>{}, i + width));
    }
    if (i + width <= n) {
        even.add(at(Many<A>{}, i));
        i += width;
    }
    even.add(odd);
    Terms<One<A>> sums{lane_sum<A>(even.d), lane_sum<A>(even.dd), lane_sum<A>(even.v), lane_sum<A>(even.vd)};
    for (; i < n; ++i)
        sums.add(at(One<A>{}, i));
    return sums;
}

template <class A> struct Passage {
    Moments<A> norm;
    A mean, along; // of v, as `through_norm` wants them
};

// The moments of a row x, and those of v = v_at(read, i) beside it, from one pass: squares are summed around a number
// that lies near the mean, and a second time, around the mean, where it did not.
template <class A, class Body>
inline __attribute__((always_inline)) Passage<A> look(const A* x, int64_t n, bool rms, A eps, const Body& v_at) {
    const A count = A(n), quarter = A(0.25);
    A centre = 0;
    if (!rms && n >= 4)
        centre = quarter * x[0] + quarter * x[n / 4] + quarter * x[n / 2] + quarter * x[n - n / 4];
    for (bool again = !rms;; again = false) {
        const Terms<One<A>> sums =
            row_sums<A>(n, [=](auto read, int64_t i) __attribute__((always_inline)) -> Terms<decltype(read)> {
                const auto d = read(x + i) - centre;
                const auto v = v_at(read, i);
                return {d, d * d, v, v * d};
            });
        const A off = rms ? A(0) : sums.d / count, squares = sums.dd / count - off * off;
        if (again && off * off > A(4) * squares) {
            centre += off;
            continue;
        }
        const A rate = A(1) / detail::root_of((squares < A(0) ? A(0) : squares) + eps);
        return {{centre + off, rate}, rms ? A(0) : sums.v / count, rate * (sums.vd - off * sums.v) / count};
    }
}

// Where nothing goes through the norm; the compiler leaves its sums out.
struct Nothing {
    template <class Read> PFK_HD_MEMBER typename Read::Value operator()(Read, int64_t) const {
        typename Read::Value zero = {};
        return zero;
    }
};

// ---- rows in the type of their arithmetic ---------------------------------------------------------------------------

// The row as it is where it can be read so, else its copy in `buffer`.
template <class A> const A* widened(const A* row, A*, int64_t) { return row; }
template <class T, class A> const A* widened(const T* row, A* buffer, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        buffer[i] = load<A>(row[i]);
    return buffer;
}

template <class A> void widen_params(DType type, const void* from, int64_t offset, A plus, A* to, int64_t n) {
    with_types(type, [&](auto in_memory, auto wide) {
        const auto* const row = static_cast<const decltype(in_memory)*>(from) + offset;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            to[i] = static_cast<A>(load<decltype(wide)>(row[i])) + plus;
    });
}

template <class A> void narrow_params(const A* from, DType type, void* to, int64_t offset, int64_t n) {
    with_types(type, [&](auto in_memory, auto wide) {
        auto* const row = static_cast<decltype(in_memory)*>(to) + offset;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            store(row[i], static_cast<decltype(wide)>(from[i]));
    });
}

// ---- the kernels ----------------------------------------------------------------------------------------------------

template <class T, class A> void forward(const ModulatedNorm& p, int64_t begin, int64_t end) {
    const int64_t n = p.size;
    const A eps = static_cast<A>(p.eps);
    Scratch scratch(3 * (n * static_cast<int64_t>(sizeof(A)) + 64));
    A *const x_wide = scratch.take<A>(n), *const factor = scratch.take<A>(n), *const shift = scratch.take<A>(n);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t event = row / p.tokens, token = row - event * p.tokens;
        if (row == begin || token == 0) {
            widen_params(p.param, p.scale, event * p.scale_stride, A(1), factor, n);
            widen_params(p.param, p.shift, event * p.shift_stride, A(0), shift, n);
        }
        const A* const x = widened(static_cast<const T*>(p.x) + event * p.x_stride + token * n, x_wide, n);
        T* const y = static_cast<T*>(p.y) + row * n;
        const Moments<A> norm = look(x, n, p.rms, eps, Nothing{}).norm;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            store(y[i], normalised(x[i], norm) * factor[i] + shift[i]);
    }
}

// y of a token with its first tangent (`First`), or a further tangent alone; where scale and shift stand still
// (`Moving` is false), two rows less compete for the first cache.
template <bool First, bool Moving, class T, class A>
inline __attribute__((always_inline)) void finish(const A* x, const A* v, Passage<A> a, const A* factor, const A* shift,
                                                  const A* bend, const A* move, T* y, T* vy, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const A at = normalised(x[i], a.norm);
        A image = through_norm(v[i], at, a.norm.rate, a.mean, a.along) * factor[i];
        if constexpr (Moving)
            image += at * bend[i] + move[i];
        if constexpr (First)
            store(y[i], at * factor[i] + shift[i]);
        store(vy[i], image);
    }
}

template <bool Moving, class T, class A> void with_tangents(const ModulatedNorm& p, int64_t begin, int64_t end) {
    if (p.tangents == 0)
        return forward<T, A>(p, begin, end);
    const int64_t n = p.size, count = p.tangents, moving = Moving ? count : 0;
    const A eps = static_cast<A>(p.eps);
    Scratch scratch((4 + 2 * moving) * (n * static_cast<int64_t>(sizeof(A)) + 64));
    A *const x_wide = scratch.take<A>(n), *const v_wide = scratch.take<A>(n);
    A *const factor = scratch.take<A>(n), *const shift = scratch.take<A>(n);
    A *const bend = scratch.take<A>(moving * n), *const move = scratch.take<A>(moving * n);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t event = row / p.tokens, token = row - event * p.tokens;
        if (row == begin || token == 0) {
            widen_params(p.param, p.scale, event * p.scale_stride, A(1), factor, n);
            widen_params(p.param, p.shift, event * p.shift_stride, A(0), shift, n);
            if constexpr (Moving) {
                widen_params(p.param, p.vscale, event * p.vscale_stride, A(0), bend, count * n);
                widen_params(p.param, p.vshift, event * p.vshift_stride, A(0), move, count * n);
            }
        }
        const A* const x = widened(static_cast<const T*>(p.x) + event * p.x_stride + token * n, x_wide, n);
        T* const y = static_cast<T*>(p.y) + row * n;
        for (int64_t k = 0; k < count; ++k) {
            const T* const from = static_cast<const T*>(p.vx) + event * p.vx_stride + (k * p.tokens + token) * n;
            const A* const v = widened(from, v_wide, n);
            T* const vy = static_cast<T*>(p.vy) + ((event * count + k) * p.tokens + token) * n;
            const Passage<A> a = look(x, n, p.rms, eps, [=](auto read, int64_t i) { return read(v + i); });
            if (k == 0)
                finish<true, Moving>(x, v, a, factor, shift, bend, move, y, vy, n);
            else
                finish<false, Moving>(x, v, a, factor, shift, bend + k * n, move + k * n, y, vy, n);
        }
    }
}

constexpr int64_t kTokens = 32; // summed up before they join the total, so that long events lose no digits

template <class T, class A> void backward(const ModulatedNorm& p, int64_t begin, int64_t end) {
    const int64_t n = p.size;
    const A eps = static_cast<A>(p.eps);
    Scratch scratch(7 * (n * static_cast<int64_t>(sizeof(A)) + 64));
    A *const x_wide = scratch.take<A>(n), *const dy_wide = scratch.take<A>(n), *const factor = scratch.take<A>(n);
    A *const dscale = scratch.take<A>(n), *const dshift = scratch.take<A>(n);
    A *const dscale_part = scratch.take<A>(n), *const dshift_part = scratch.take<A>(n);
    for (int64_t event = begin; event < end; ++event) {
        widen_params(p.param, p.scale, event * p.scale_stride, A(1), factor, n);
        for (int64_t i = 0; i < n; ++i)
            dscale[i] = dshift[i] = dscale_part[i] = dshift_part[i] = A(0);
        for (int64_t token = 0; token < p.tokens; ++token) {
            const A* const x = widened(static_cast<const T*>(p.x) + event * p.x_stride + token * n, x_wide, n);
            const A* const dy = widened(static_cast<const T*>(p.dy) + event * p.dy_stride + token * n, dy_wide, n);
            T* const dx = static_cast<T*>(p.dx) + (event * p.tokens + token) * n;
            const Passage<A> a =
                look(x, n, p.rms, eps, [=](auto read, int64_t i) { return read(dy + i) * read(factor + i); });
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const A at = normalised(x[i], a.norm);
                store(dx[i], through_norm(dy[i] * factor[i], at, a.norm.rate, a.mean, a.along));
                dscale_part[i] += dy[i] * at;
                dshift_part[i] += dy[i];
            }
            if ((token + 1) % kTokens == 0 || token + 1 == p.tokens) {
#pragma omp simd
                for (int64_t i = 0; i < n; ++i) {
                    dscale[i] += dscale_part[i], dshift[i] += dshift_part[i];
                    dscale_part[i] = dshift_part[i] = A(0);
                }
            }
        }
        narrow_params(dscale, p.param, p.dscale, event * n, n);
        narrow_params(dshift, p.param, p.dshift, event * n, n);
    }
}

} // namespace

namespace PFK_ISA {

void modulated_norm(const ModulatedNorm& p, int64_t begin, int64_t end) {
    with_types(p.state, [&](auto state, auto wide) { forward<decltype(state), decltype(wide)>(p, begin, end); });
}

void modulated_norm_tangents(const ModulatedNorm& p, int64_t begin, int64_t end) {
    with_types(p.state, [&](auto state, auto wide) {
        if (p.moving)
            with_tangents<true, decltype(state), decltype(wide)>(p, begin, end);
        else
            with_tangents<false, decltype(state), decltype(wide)>(p, begin, end);
    });
}

void modulated_norm_backward(const ModulatedNorm& p, int64_t begin, int64_t end) {
    with_types(p.state, [&](auto state, auto wide) { backward<decltype(state), decltype(wide)>(p, begin, end); });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
