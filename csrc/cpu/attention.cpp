// attention on the CPU: keys stream by in blocks. A block of scores, and of what follows from it for every tangent,
// stays in the first caches. Where queries, keys and values all move along one tangent, every product of theirs is one
// of dual numbers. Compiled once per instruction set.

#include "../math/attention.h"
#include "../math/softmax.h"
#include "heads.h"

namespace pfk::cpu {
namespace {

// Whether value and tangent go side by side, by products of dual numbers.
bool paired(const Attention& p) { return p.tangents == 1 && p.vq.number > 0 && p.vk.number > 0 && p.vv.number > 0; }

// Rows of some keys, and of their tangents.
template <class T, class A> Dual<const A*> rows_of(const Staged<T, A>& x, const Staged<T, A>& vx, int64_t at) {
    return Dual<const A*>{x[0], vx[0]} + at;
}

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

    // s becomes exp(s - base), and the slopes beside it, if there are some, those of that
    void weigh(A* s, A* ds, int64_t keys, int64_t n) {
        constexpr int64_t step = kGemmVector<A>;
        for (int64_t at = 0; at < n; at += step) {
            A from[step], total[step], slope[step]; // registers
            copy(base + at, from, step), copy(sum + at, total, step),
                copy(slopes + at, slope, ds != nullptr ? step : 0);
            for (int64_t j = 0; j < keys; ++j) {
                A *const x = s + j * n + at, *const dx = ds + j * n + at;
#pragma omp simd
                for (int64_t l = 0; l < step; ++l) {
                    x[l] = exp_falling(x[l] - from[l]);
                    total[l] += x[l];
                }
                if (ds != nullptr)
#pragma omp simd
                    for (int64_t l = 0; l < step; ++l) {
                        dx[l] *= x[l];
                        slope[l] += dx[l];
                    }
            }
            copy(total, sum + at, step), copy(slope, slopes + at, ds != nullptr ? step : 0);
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
    const bool sloped = p.vq.number > 0 || p.vk.number > 0, pairs = paired(p);
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
            if (pairs)
                score<false>(rows_of(side.k, side.vk, key * d), d, {q, vq}, {s, ds}, keys, n);
            else
                score<false>(side.k[0] + key * d, d, q, s, keys, n);
            side.kept.hide(s, key, keys, first, n);
            stream.look(s, keys, n);
            if (key > 0 && stream.moved) {
                scale_lanes(stream.sum, stream.shrink, 1, n), scale_lanes(y, stream.shrink, e, n);
                scale_lanes(stream.slopes, stream.shrink, tangents, n);
                scale_lanes(vy, stream.shrink, tangents * e, n);
            }
            stream.weigh(s, pairs ? ds : nullptr, keys, n);
            if (pairs) {
                mix(rows_of(side.v, side.vv, key * e), e, {s, ds}, {y, vy}, keys, n);
                continue;
            }
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

// The same where value and tangent go side by side, all at once: s scores, f what the values give to their gradients.
template <class A, class Block> void bend_pairs(A* s, A* c, A* u, A* f, const Block& block, int64_t keys, int64_t n) {
    const A *const base = block.base, *const bend = block.bend, *const mean = block.mean, *const lift = block.lift;
    for (int64_t j = 0; j < keys; ++j, s += n, c += n, u += n, f += n)
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const A share = exp_flushed(s[i] - base[i]), centred = c[i] - mean[i], risen = share * (u[i] + lift[i]);
            f[i] = share * (f[i] + bend[i]) + risen * centred;
            s[i] = share;
            c[i] = share * centred;
            u[i] = risen;
        }
}

// Gradients of the heads, one after the other; those of keys and values are summed over the blocks of queries.
template <class T, class A> class Backward {
  public:
    explicit Backward(const Attention& p)
        : p_(p), d_(p.q.size), e_(p.v.size), scratch_(bytes(p)), s_(scratch_.take<A>(kKeys * kQueries)),
          f_(scratch_.take<A>(kKeys * kQueries)), c_(scratch_.take<A>(kKeys * kQueries)),
          u_(scratch_.take<A>(kKeys * kQueries)), block_(p, scratch_), side_(p, scratch_), gk_(p.gk, p.heads, scratch_),
          gv_(p.gv, p.heads, scratch_), gvk_(p.gvk, p.heads, scratch_), gvv_(p.gvv, p.heads, scratch_) {}

    void head(int64_t unit) {
        side_.enter(unit, unit / p_.heads);
        gk_.begin(), gv_.begin(), gvk_.begin(), gvv_.begin();
        for (int64_t first = 0; first < p_.q.length; first += kQueries) {
            const int64_t some = least(kQueries, p_.q.length - first), n = padded<A>(some);
            block_.enter(unit, first, n);
            const int64_t seen = side_.kept.seen(first + some - 1);
            for (int64_t key = 0; key < seen; key += kKeys) {
                const int64_t keys = least(kKeys, seen - key);
                if (paired(p_) && d_ % kGemmVector<A> == 0 && e_ % kGemmVector<A> == 0)
                    pairs(key, keys, first, some, n);
                else
                    parts(key, keys, first, some, n);
            }
            block_.finish(unit, first, n);
        }
        const A scale = static_cast<A>(p_.scale);
        gk_.finish(unit, scale, side_.kept), gvk_.finish(unit, scale, side_.kept);
        gv_.finish(unit, A(1), side_.kept), gvv_.finish(unit, A(1), side_.kept);
    }

  private:
    static int64_t bytes(const Attention& p) {
        int64_t sum = 4 * (kKeys * kQueries * static_cast<int64_t>(sizeof(A)) + 64) + Queries<T, A>::bytes(p);
        const Heads* const summed[] = {&p.gk, &p.gv, &p.gvk, &p.gvv};
        for (const Heads* x : summed)
            sum += Gradient<T, A>::bytes(*x);
        return sum + KeySide<T, A>::bytes(p);
    }

    // A block of keys and one of queries, all moving along one tangent.
    void pairs(int64_t key, int64_t keys, int64_t first, int64_t some, int64_t n) {
        const Dual<const A*> k = rows_of(side_.k, side_.vk, key * d_), v = rows_of(side_.v, side_.vv, key * e_);
        score<false>(k, d_, {block_.q_panel, block_.vq_panel}, {s_, c_}, keys, n);
        score<false>(v, e_, {block_.gvy_panel, block_.gy_panel}, {u_, f_}, keys, n);
        side_.kept.hide(s_, key, keys, first, n);
        bend_pairs(s_, c_, u_, f_, block_, keys, n);
        spread({s_, c_}, n, rows_of(block_.gvy, block_.gy, 0), e_, Dual<A*>{gvv_[0], gv_[0]} + key * e_, keys, some);
        spread({u_, f_}, n, rows_of(block_.q, block_.vq, 0), d_, Dual<A*>{gvk_[0], gk_[0]} + key * d_, keys, some);
        mix(k, d_, {u_, f_}, {block_.gvq, block_.gq}, keys, n);
    }

    // The same of whatever moves, product by product.
    void parts(int64_t key, int64_t keys, int64_t first, int64_t some, int64_t n) {
        const A *const k = side_.k[0] + key * d_, *const v = side_.v[0] + key * e_;
        score<false>(k, d_, block_.q_panel, s_, keys, n);
        side_.kept.hide(s_, key, keys, first, n);
        for (int64_t j = 0; j < keys; ++j)
#pragma omp simd
            for (int64_t i = 0; i < n; ++i)
                s_[j * n + i] = exp_flushed(s_[j * n + i] - block_.base[i]), f_[j * n + i] = block_.bend[i];
        score<true>(v, e_, block_.gy_panel, f_, keys, n);
        spread(s_, n, block_.gy[0], e_, gv_[0] + key * e_, keys, some);
        for (int64_t t = 0; t < p_.tangents; ++t)
            part(t, key, keys, some, n);
        for (int64_t i = 0; i < keys * n; ++i)
            f_[i] *= s_[i];
        spread(f_, n, block_.q[0], d_, gk_[0] + key * d_, keys, some);
        mix(k, d_, f_, block_.gq, keys, n);
    }

    void part(int64_t t, int64_t key, int64_t keys, int64_t some, int64_t n) {
        const A *const k = side_.k[0] + key * d_, *const g = block_.gvy_panel + t * e_ * n;
        if (p_.vv.number > 0) {
            score<true>(side_.vv[t] + key * e_, e_, g, f_, keys, n);
            spread(s_, n, block_.gvy[t], e_, gvv_[t] + key * e_, keys, some);
        }
        if (p_.vq.number == 0 && p_.vk.number == 0)
            return;
        slope(side_, t, key, block_.q_panel, p_.vq.number > 0 ? block_.vq_panel + t * d_ * n : nullptr, d_, c_, keys,
              n);
        score<false>(side_.v[0] + key * e_, e_, g, u_, keys, n);
        bend_slopes(s_, c_, u_, f_, block_.mean + t * n, block_.lift + t * n, keys, n);
        spread(c_, n, block_.gvy[t], e_, gv_[0] + key * e_, keys, some);
        if (p_.vq.number > 0) {
            spread(u_, n, block_.vq[t], d_, gk_[0] + key * d_, keys, some);
            mix(k, d_, u_, block_.gvq + t * d_ * n, keys, n);
        }
        if (p_.vk.number > 0) {
            spread(u_, n, block_.q[0], d_, gvk_[t] + key * d_, keys, some);
            mix(side_.vk[t] + key * d_, d_, u_, block_.gq, keys, n);
        }
    }

    const Attention& p_;
    const int64_t d_, e_;
    Scratch scratch_;
    A *s_, *f_, *c_, *u_; // of a block: shares, what scores and slopes have, and what these get
    Queries<T, A> block_;
    KeySide<T, A> side_;
    Gradient<T, A> gk_, gv_, gvk_, gvv_;
};

} // namespace

namespace PFK_ISA {

void attention(const Attention& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto type, auto wide) { forward<decltype(type), decltype(wide)>(p, begin, end); });
}

void attention_backward(const Attention& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto type, auto wide) {
        Backward<decltype(type), decltype(wide)> heads(p);
        for (int64_t unit = begin; unit < end; ++unit)
            heads.head(unit);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
