// attention on the CPU: keys stream by in blocks. A block of scores, and of what follows from it for every tangent,
// stays in the first caches. Compiled once per instruction set.

#include "../math/attention.h"
#include "../math/elementary.h"
#include "heads.h"

namespace pfk::cpu {
namespace {

// ---- forward --------------------------------------------------------------------------------------------------------

// What a block of queries knows of the keys that have streamed by, n lanes each.
template <class A> struct Stream {
    A *top, *base, *shrink, *sum; // the greatest score, what is taken off before exp, its last change, the sum of exp
    A* slopes;                    // (tangents, n), of exp times the slopes
    bool moved;                   // whether any base did

    static int64_t bytes(int64_t tangents) {
        return (4 + tangents) * (kQueries * static_cast<int64_t>(sizeof(A)) + 64);
    }
    Stream(int64_t tangents, Scratch& scratch)
        : top(scratch.take<A>(kQueries)), base(scratch.take<A>(kQueries)), shrink(scratch.take<A>(kQueries)),
          sum(scratch.take<A>(kQueries)), slopes(scratch.take<A>(tangents * kQueries)), moved(false) {}

    void begin(int64_t tangents, int64_t n) {
        fill_zero(base, n), fill_zero(sum, n), fill_zero(slopes, tangents * n);
        for (int64_t i = 0; i < n; ++i)
            top[i] = -infinity<A>();
    }

    void look(const A* s, int64_t keys, int64_t n) {
        using Vec = typename Vector<A>::Type;
        moved = false;
        for (int64_t at = 0; at < n; at += kGemmVector<A>) {
            Vec most = *reinterpret_cast<const Vec*>(top + at);
            for (int64_t j = 0; j < keys; ++j) {
                const Vec x = *reinterpret_cast<const Vec*>(s + j * n + at);
                most = x > most ? x : most;
            }
            *reinterpret_cast<Vec*>(shrink + at) = *reinterpret_cast<const Vec*>(top + at);
            *reinterpret_cast<Vec*>(top + at) = most;
        }
        for (int64_t i = 0; i < n; ++i) {
            base[i] = top[i] == -infinity<A>() ? A(0) : top[i];
            shrink[i] = exp(shrink[i] - base[i]);
            moved = moved || shrink[i] != A(1);
        }
    }

    // s becomes exp(s - base)
    void weigh(A* s, int64_t keys, int64_t n) {
        for (int64_t j = 0; j < keys; ++j, s += n)
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                s[i] = exp(s[i] - base[i]);
                sum[i] += s[i];
            }
    }

    // slopes become those of the weights s
    void weigh_slopes(const A* s, A* ds, A* total, int64_t keys, int64_t n) {
        for (int64_t j = 0; j < keys; ++j, s += n, ds += n)
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                ds[i] *= s[i];
                total[i] += ds[i];
            }
    }
};

// rows (count, n) times a factor of each lane
template <class A> void scale_lanes(A* rows, const A* factor, int64_t count, int64_t n) {
    for (int64_t j = 0; j < count; ++j, rows += n)
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            rows[i] *= factor[i];
}

template <class T, class A> void forward(const Attention& p, int64_t begin, int64_t end) {
    const int64_t blocks = (p.q.length + kQueries - 1) / kQueries, d = p.q.size, e = p.v.size;
    const int64_t tangents = p.tangents, turning = p.vq.number;
    const bool sloped = p.vq.number > 0 || p.vk.number > 0;
    const int64_t numbers = kQueries * ((1 + turning) * d + (1 + tangents) * e + 2 * kKeys);
    Scratch scratch(numbers * static_cast<int64_t>(sizeof(A)) + 64 * 8 + Stream<A>::bytes(tangents) +
                    KeySide<T, A>::bytes(p));
    A *const q = scratch.take<A>(d * kQueries), *const vq = scratch.take<A>(turning * d * kQueries);
    A *const y = scratch.take<A>(e * kQueries), *const vy = scratch.take<A>(tangents * e * kQueries);
    A *const s = scratch.take<A>(kKeys * kQueries), *const ds = scratch.take<A>(kKeys * kQueries);
    Stream<A> stream(tangents, scratch);
    KeySide<T, A> side(p, scratch);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t unit = row / blocks, first = (row - unit * blocks) * kQueries;
        if (row == begin || first == 0)
            side.enter(unit, unit / p.heads);
        const int64_t some = least(kQueries, p.q.length - first), n = padded<A>(some);
        to_panel<T>(p.q, p.heads, unit, 0, first, static_cast<A>(p.scale), q, n);
        for (int64_t t = 0; t < turning; ++t)
            to_panel<T>(p.vq, p.heads, unit, t, first, static_cast<A>(p.scale), vq + t * d * n, n);
        fill_zero(y, e * n), fill_zero(vy, tangents * e * n);
        stream.begin(tangents, n);
        const int64_t seen = side.kept.seen(first + some - 1);
        for (int64_t key = 0; key < seen; key += kKeys) {
            const int64_t keys = least(kKeys, seen - key);
            score<false>(side.k[0] + key * d, d, q, s, keys, n);
            side.kept.hide(s, key, keys, first, n);
            stream.look(s, keys, n);
            if (key > 0 && stream.moved) {
                scale_lanes(stream.sum, stream.shrink, 1, n), scale_lanes(y, stream.shrink, e, n);
                scale_lanes(stream.slopes, stream.shrink, tangents, n);
                scale_lanes(vy, stream.shrink, tangents * e, n);
            }
            stream.weigh(s, keys, n);
            mix(side.v[0] + key * e, e, s, y, keys, n);
            for (int64_t t = 0; t < tangents; ++t) {
                if (sloped) {
                    slope(side, t, key, q, turning > 0 ? vq + t * d * n : nullptr, d, ds, keys, n);
                    stream.weigh_slopes(s, ds, stream.slopes + t * n, keys, n);
                    mix(side.v[0] + key * e, e, ds, vy + t * e * n, keys, n);
                }
                if (p.vv.number > 0)
                    mix(side.vv[t] + key * e, e, s, vy + t * e * n, keys, n);
            }
        }
        A *const rate = stream.shrink, *const lse = stream.base;
        for (int64_t i = 0; i < n; ++i) {
            rate[i] = stream.sum[i] == A(0) ? A(0) : A(1) / stream.sum[i];
            lse[i] += log(stream.sum[i]);
        }
        scale_lanes(y, rate, e, n), scale_lanes(vy, rate, tangents * e, n);
        scale_lanes(stream.slopes, rate, tangents, n);
        from_panel<T>(y, n, p.y, p.heads, unit, 0, first);
        copy(lse, head_of<A>(p.lse, p.heads, unit) + first, some);
        for (int64_t t = 0; t < tangents; ++t) {
            const A* const mean = stream.slopes + t * n;
            A* const image = vy + t * e * n;
            for (int64_t j = 0; j < e; ++j)
#pragma omp simd
                for (int64_t i = 0; i < n; ++i)
                    image[j * n + i] -= mean[i] * y[j * n + i];
            from_panel<T>(image, n, p.vy, p.heads, unit, t, first);
            copy(mean, head_of<A>(p.vlse, p.heads, unit, t) + first, some);
        }
    }
}

// ---- backward -------------------------------------------------------------------------------------------------------

// The rows' numbers of a block, as accumulators; 0 in lanes beyond them.
template <class A>
void to_lanes(const Heads& x, int64_t heads, int64_t unit, int64_t t, int64_t first, A* to, int64_t n) {
    const int64_t some = least(n, x.length - first);
    copy(head_of<const A>(x, heads, unit, t) + first, to, some);
    fill_zero(to + some, n - some);
}

// sums[i] -= the sum over the rows of two panels' products
template <class A> void subtract_products(const A* a, const A* b, A* sums, int64_t size, int64_t n) {
    for (int64_t j = 0; j < size; ++j, a += n, b += n)
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            sums[i] -= a[i] * b[i];
}

// Gradients of the rows of a head, as they are summed up.
template <class T, class A> class Gradient {
  public:
    Gradient(const Heads& x, int64_t heads, Scratch& scratch)
        : x_(x), heads_(heads), room_(scratch.take<A>(x.number * x.length * x.size)) {}
    static int64_t bytes(const Heads& x) { return x.number * x.length * x.size * static_cast<int64_t>(sizeof(A)) + 64; }

    void begin() { fill_zero(room_, x_.number * x_.length * x_.size); }
    A* operator[](int64_t t) { return room_ + t * x_.length * x_.size; }

    // The sums, those of keys that took no part 0.
    void finish(int64_t unit, A factor, const Kept& kept) {
        for (int64_t t = 0; t < x_.number; ++t) {
            T* const to = head_of<T>(x_, heads_, unit, t);
            const A* from = (*this)[t];
            for (int64_t i = 0; kept.places() != nullptr && i < x_.length * x_.size; ++i)
                store(to[i], A(0));
            for (int64_t i = 0; i < kept.count(); ++i, from += x_.size) {
                T* const row = to + (kept.places() == nullptr ? i : kept.places()[i]) * x_.size;
#pragma omp simd
                for (int64_t j = 0; j < x_.size; ++j)
                    store(row[j], factor * from[j]);
            }
        }
    }

  private:
    const Heads& x_;
    int64_t heads_;
    A* room_;
};

// A block of queries in the backward pass: its rows, and panels of what stands in the products' right operands.
template <class T, class A> struct Queries {
    const Attention& p;
    Staged<T, A> q, vq, gy, gvy;
    A *q_panel, *vq_panel, *gy_panel, *gvy_panel, *y_panel, *gq, *gvq;
    A *base, *bend, *mean,
        *lift; // what exp takes off; what is added to gradients of scores; mean slopes; and to theirs

    Queries(const Attention& p, Scratch& scratch)
        : p(p), q(p.q, p.heads, kQueries, false, scratch), vq(p.vq, p.heads, kQueries, false, scratch),
          gy(p.gy, p.heads, kQueries, false, scratch), gvy(p.gvy, p.heads, kQueries, false, scratch) {
        const int64_t d = p.q.size * kQueries, e = p.v.size * kQueries;
        q_panel = scratch.take<A>(d), vq_panel = scratch.take<A>(p.vq.number * d);
        gy_panel = scratch.take<A>(e), gvy_panel = scratch.take<A>(p.tangents * e), y_panel = scratch.take<A>(e);
        gq = scratch.take<A>(d), gvq = scratch.take<A>(p.vq.number * d);
        base = scratch.take<A>(kQueries), bend = scratch.take<A>(kQueries);
        mean = scratch.take<A>(p.tangents * kQueries), lift = scratch.take<A>(p.tangents * kQueries);
    }
    static int64_t bytes(const Attention& p) {
        const int64_t d = p.q.size, e = p.v.size, turning = p.vq.number;
        const int64_t rows = (1 + turning) * d + (1 + p.tangents) * e;
        const int64_t panels = 2 * (1 + turning) * d + (2 + p.tangents) * e, lanes = 2 + 2 * p.tangents;
        return (rows + panels + lanes) * kQueries * static_cast<int64_t>(sizeof(A)) + 64 * 15;
    }

    void enter(int64_t unit, int64_t first, int64_t n) {
        const int64_t d = p.q.size, e = p.v.size, some = least(n, p.q.length - first);
        Staged<T, A>* const rows[] = {&q, &vq, &gy, &gvy};
        for (Staged<T, A>* x : rows)
            x->enter(unit, first, some);
        const A scale = static_cast<A>(p.scale), one = A(1);
        to_panel<T>(p.q, p.heads, unit, 0, first, scale, q_panel, n);
        for (int64_t t = 0; t < p.vq.number; ++t)
            to_panel<T>(p.vq, p.heads, unit, t, first, scale, vq_panel + t * d * n, n);
        to_panel<T>(p.gy, p.heads, unit, 0, first, one, gy_panel, n);
        to_panel<T>(p.y, p.heads, unit, 0, first, one, y_panel, n);
        to_lanes(p.lse, p.heads, unit, 0, first, base, n);
        for (int64_t i = 0; i < n; ++i) // no key took part
            base[i] = base[i] == -infinity<A>() ? A(0) : base[i];
        to_lanes(p.glse, p.heads, unit, 0, first, bend, n);
        subtract_products(gy_panel, y_panel, bend, e, n);
        for (int64_t t = 0; t < p.tangents; ++t) {
            A* const g = gvy_panel + t * e * n;
            to_panel<T>(p.gvy, p.heads, unit, t, first, one, g, n);
            to_lanes(p.vlse, p.heads, unit, t, first, mean + t * n, n);
            to_lanes(p.gvlse, p.heads, unit, t, first, lift + t * n, n);
            subtract_products(g, y_panel, lift + t * n, e, n);
        }
        for (int64_t t = 0; t < p.tangents; ++t) {
            to_panel<T>(p.vy, p.heads, unit, t, first, one, y_panel, n);
            subtract_products(gvy_panel + t * e * n, y_panel, bend, e, n);
        }
        fill_zero(gq, d * n), fill_zero(gvq, p.vq.number * d * n);
    }

    void finish(int64_t unit, int64_t first, int64_t n) {
        const int64_t d = p.q.size;
        const A scale = static_cast<A>(p.scale);
        from_panel<T>(gq, n, p.gq, p.heads, unit, 0, first, scale);
        for (int64_t t = 0; t < p.vq.number; ++t)
            from_panel<T>(gvq + t * d * n, n, p.gvq, p.heads, unit, t, first, scale);
    }
};

// What a slope's gradient becomes: u its part from the values, c the slope. Adds to f what the scores get by it.
template <class A>
void bend_slopes(const A* s, A* c, A* u, A* f, const A* mean, const A* lift, int64_t keys, int64_t n) {
    for (int64_t j = 0; j < keys; ++j, s += n, c += n, u += n, f += n)
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const A centred = c[i] - mean[i], risen = u[i] + lift[i];
            f[i] += risen * centred;
            c[i] = s[i] * centred;
            u[i] = s[i] * risen;
        }
}

template <class T, class A> void backward(const Attention& p, int64_t begin, int64_t end) {
    const int64_t d = p.q.size, e = p.v.size;
    const bool sloped = p.vq.number > 0 || p.vk.number > 0;
    int64_t bytes = 4 * (kKeys * kQueries * static_cast<int64_t>(sizeof(A)) + 64) + Queries<T, A>::bytes(p);
    const Heads* const summed[] = {&p.gk, &p.gv, &p.gvk, &p.gvv};
    for (const Heads* x : summed)
        bytes += Gradient<T, A>::bytes(*x);
    Scratch scratch(bytes + KeySide<T, A>::bytes(p));
    A *const s = scratch.take<A>(kKeys * kQueries), *const f = scratch.take<A>(kKeys * kQueries);
    A *const c = scratch.take<A>(kKeys * kQueries), *const u = scratch.take<A>(kKeys * kQueries);
    Queries<T, A> block(p, scratch);
    KeySide<T, A> side(p, scratch);
    Gradient<T, A> gk(p.gk, p.heads, scratch), gv(p.gv, p.heads, scratch);
    Gradient<T, A> gvk(p.gvk, p.heads, scratch), gvv(p.gvv, p.heads, scratch);
    for (int64_t unit = begin; unit < end; ++unit) {
        side.enter(unit, unit / p.heads);
        gk.begin(), gv.begin(), gvk.begin(), gvv.begin();
        for (int64_t first = 0; first < p.q.length; first += kQueries) {
            const int64_t some = least(kQueries, p.q.length - first), n = padded<A>(some);
            block.enter(unit, first, n);
            const int64_t seen = side.kept.seen(first + some - 1);
            for (int64_t key = 0; key < seen; key += kKeys) {
                const int64_t keys = least(kKeys, seen - key);
                const A *const k = side.k[0] + key * d, *const v = side.v[0] + key * e;
                score<false>(k, d, block.q_panel, s, keys, n);
                side.kept.hide(s, key, keys, first, n);
                for (int64_t j = 0; j < keys; ++j)
#pragma omp simd
                    for (int64_t i = 0; i < n; ++i)
                        s[j * n + i] = exp(s[j * n + i] - block.base[i]), f[j * n + i] = block.bend[i];
                score<true>(v, e, block.gy_panel, f, keys, n);
                spread(s, n, block.gy[0], e, gv[0] + key * e, keys, some);
                for (int64_t t = 0; t < p.tangents; ++t) {
                    const A* const g = block.gvy_panel + t * e * n;
                    if (p.vv.number > 0) {
                        score<true>(side.vv[t] + key * e, e, g, f, keys, n);
                        spread(s, n, block.gvy[t], e, gvv[t] + key * e, keys, some);
                    }
                    if (!sloped)
                        continue;
                    slope(side, t, key, block.q_panel, p.vq.number > 0 ? block.vq_panel + t * d * n : nullptr, d, c,
                          keys, n);
                    score<false>(v, e, g, u, keys, n);
                    bend_slopes(s, c, u, f, block.mean + t * n, block.lift + t * n, keys, n);
                    spread(c, n, block.gvy[t], e, gv[0] + key * e, keys, some);
                    if (p.vq.number > 0) {
                        spread(u, n, block.vq[t], d, gk[0] + key * d, keys, some);
                        mix(k, d, u, block.gvq + t * d * n, keys, n);
                    }
                    if (p.vk.number > 0) {
                        spread(u, n, block.q[0], d, gvk[t] + key * d, keys, some);
                        mix(side.vk[t] + key * d, d, u, block.gq, keys, n);
                    }
                }
                for (int64_t i = 0; i < keys * n; ++i)
                    f[i] *= s[i];
                spread(f, n, block.q[0], d, gk[0] + key * d, keys, some);
                mix(k, d, f, block.gq, keys, n);
            }
            block.finish(unit, first, n);
        }
        const A scale = static_cast<A>(p.scale);
        gk.finish(unit, scale, side.kept), gvk.finish(unit, scale, side.kept);
        gv.finish(unit, A(1), side.kept), gvv.finish(unit, A(1), side.kept);
    }
}

} // namespace

namespace PFK_ISA {

void attention(const Attention& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto type, auto wide) { forward<decltype(type), decltype(wide)>(p, begin, end); });
}

void attention_backward(const Attention& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto type, auto wide) { backward<decltype(type), decltype(wide)>(p, begin, end); });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
