// Rows of the heads of attention, which keys a query sees, and the products of a block. Queries lie along the lanes, so
// that no sum of a softmax crosses them. Included once per instruction set, like gemm.h.
#pragma once

#include "../math/attention.h"
#include "dual.h"
#include "panels.h"
#include "scratch.h"
#include "sums.h"
#include "transpose.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kKeys = 64; // of a block

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
template <class A> constexpr A infinity() { return static_cast<A>(__builtin_inf()); }

// ---- rows of a head -------------------------------------------------------------------------------------------------

// A unit is a head of an event.
template <class T> T* head_of(const Heads& x, int64_t heads, int64_t unit, int64_t which = 0) {
    const int64_t event = unit / heads, head = unit - event * heads;
    return static_cast<T*>(x.data) + event * x.stride + (which * heads + head) * x.length * x.size;
}

// Some rows of a head, of values or of each of their tangents: as they lie where they can be read so, else copied.
template <class T, class A> class Staged {
  public:
    // `most` rows at a time; `picked`: not all of them, or not in their order
    Staged(const Heads& x, int64_t heads, int64_t most, bool picked, Scratch& scratch)
        : x_(x), heads_(heads), most_(most), copied_(picked || sizeof(T) != sizeof(A)),
          room_(scratch.take<A>(copied_ ? x.number * most * x.size : 0)) {}

    static int64_t bytes(const Heads& x, int64_t most) {
        return x.number * most * x.size * static_cast<int64_t>(sizeof(A)) + 64;
    }

    // Rows first, first + 1, ... or those that `places` names.
    void enter(int64_t unit, int64_t first, int64_t count, const int64_t* places = nullptr) {
        unit_ = unit, first_ = first;
        for (int64_t t = 0; copied_ && t < x_.number; ++t) {
            const T* const head = head_of<const T>(x_, heads_, unit, t);
            A* to = room_ + t * most_ * x_.size;
            for (int64_t i = 0; i < count; ++i, to += x_.size) {
                const T* const from = head + (places == nullptr ? first + i : places[i]) * x_.size;
#pragma omp simd
                for (int64_t j = 0; j < x_.size; ++j)
                    to[j] = load<A>(from[j]);
            }
        }
    }

    const A* operator[](int64_t t) const {
        return copied_ ? room_ + t * most_ * x_.size : head_of<const A>(x_, heads_, unit_, t) + first_ * x_.size;
    }
    int64_t number() const { return x_.number; }

  private:
    const Heads& x_;
    int64_t heads_, most_, unit_ = 0, first_ = 0;
    bool copied_;
    A* room_;
};

// Which keys of an event take part, and which of them a query sees.
class Kept {
  public:
    Kept(const Attention& p, Scratch& scratch)
        : p_(p), places_(scratch.take<int64_t>(p.mask == nullptr ? 0 : p.k.length)), count_(p.k.length) {}

    void enter(int64_t event) {
        if (p_.mask == nullptr)
            return;
        count_ = 0;
        for (int64_t j = 0; j < p_.k.length; ++j)
            if (p_.mask[event * p_.k.length + j] != 0)
                places_[count_++] = j;
    }
    int64_t count() const { return count_; }
    const int64_t* places() const { return p_.mask == nullptr ? nullptr : places_; }

    // How many of them some queries up to this one see.
    int64_t seen(int64_t query) const {
        int64_t count = p_.causal ? 0 : count_;
        while (count < count_ && place(count) <= last_seen(query))
            ++count;
        return count;
    }

    // Scores of keys `key`, key + 1, ... that come after a query: none of the softmax.
    template <class A> void hide(A* s, int64_t key, int64_t keys, int64_t query, int64_t n) const {
        for (int64_t j = 0; p_.causal && j < keys; ++j, s += n)
            for (int64_t i = 0; i < n && last_seen(query + i) < place(key + j); ++i)
                s[i] = -infinity<A>();
    }

  private:
    int64_t place(int64_t j) const { return p_.mask == nullptr ? j : places_[j]; }
    int64_t last_seen(int64_t query) const { return query + p_.k.length - p_.q.length; }

    const Attention& p_;
    int64_t *places_, count_;
};

template <class T, class A> struct KeySide {
    Kept kept;
    Staged<T, A> k, v, vk, vv;

    KeySide(const Attention& p, Scratch& scratch)
        : kept(p, scratch), k(p.k, p.heads, p.k.length, p.mask != nullptr, scratch),
          v(p.v, p.heads, p.k.length, p.mask != nullptr, scratch),
          vk(p.vk, p.heads, p.k.length, p.mask != nullptr, scratch),
          vv(p.vv, p.heads, p.k.length, p.mask != nullptr, scratch) {}

    static int64_t bytes(const Attention& p) {
        int64_t sum = 8 * p.k.length + 64;
        const Heads* const streams[] = {&p.k, &p.v, &p.vk, &p.vv};
        if (p.mask != nullptr || sizeof(T) != sizeof(A))
            for (const Heads* x : streams)
                sum += Staged<T, A>::bytes(*x, p.k.length);
        return sum;
    }

    void enter(int64_t unit, int64_t event) {
        kept.enter(event);
        Staged<T, A>* const streams[] = {&k, &v, &vk, &vv};
        for (Staged<T, A>* x : streams)
            x->enter(unit, 0, kept.count(), kept.places());
    }
};

// ---- products of a block: rows (of keys, or of queries), panels and scores, whose queries are n lanes
// ----------------

// s (keys, n) = or += rows (keys, size) panel (size, n)
template <bool Add, class A> void score(const A* rows, int64_t size, const A* panel, A* s, int64_t keys, int64_t n) {
    gemm<Add>(Rows<A>{rows, size}, panel, n, s, n, keys, size, n);
}

template <bool Add, class A>
void score(Dual<const A*> rows, int64_t size, Dual<const A*> panel, Dual<A*> s, int64_t keys, int64_t n) {
    dual_product<Add>(Dual<Rows<A>>{{rows.value, size}, {rows.tangent, size}}, panel, n, s, n, keys, size, n);
}

// panel (size, n) += rows (keys, size)^T s (keys, n)
template <class A> void mix(const A* rows, int64_t size, const A* s, A* panel, int64_t keys, int64_t n) {
    gemm<true>(Transposed<A>{rows, size}, s, n, panel, n, size, keys, n);
}

template <class A>
void mix(Dual<const A*> rows, int64_t size, Dual<const A*> s, Dual<A*> panel, int64_t keys, int64_t n) {
    dual_product<true>(Dual<Transposed<A>>{{rows.value, size}, {rows.tangent, size}}, s, n, panel, n, size, keys, n);
}

// to (keys, size) += s (keys, n) rows (queries, size)
template <class A>
void spread(const A* s, int64_t n, const A* rows, int64_t size, A* to, int64_t keys, int64_t queries) {
    gemm<true>(Rows<A>{s, n}, rows, size, to, size, keys, queries, size);
}

template <class A>
void spread(Dual<const A*> s, int64_t n, Dual<const A*> rows, int64_t size, Dual<A*> to, int64_t keys,
            int64_t queries) {
    dual_product<true>(Dual<Rows<A>>{{s.value, n}, {s.tangent, n}}, rows, size, to, size, keys, queries, size);
}

// The slopes of the scores along tangent t of queries and keys, where either has one.
template <class T, class A>
void slope(const KeySide<T, A>& side, int64_t t, int64_t first, const A* q, const A* vq, int64_t size, A* s,
           int64_t keys, int64_t n) {
    if (vq != nullptr)
        score<false>(side.k[0] + first * size, size, vq, s, keys, n);
    if (side.vk.number() > 0 && vq != nullptr)
        score<true>(side.vk[t] + first * size, size, q, s, keys, n);
    else if (side.vk.number() > 0)
        score<false>(side.vk[t] + first * size, size, q, s, keys, n);
}

// The rows of a head from `first` on as a panel (size, n); lanes beyond them are 0.
template <class T, class A>
void to_panel(const Heads& x, int64_t heads, int64_t unit, int64_t t, int64_t first, A factor, A* panel, int64_t n) {
    const int64_t some = least(n, x.length - first);
    if (some < n)
        fill_zero(panel, x.size * n);
    transpose<A>(head_of<const T>(x, heads, unit, t) + first * x.size, x.size, some, x.size, panel, n, factor);
}

template <class T, class A>
void from_panel(const A* panel, int64_t n, const Heads& x, int64_t heads, int64_t unit, int64_t t, int64_t first,
                A factor = A(1)) {
    T* const to = head_of<T>(x, heads, unit, t) + first * x.size;
    transpose<A>(panel, n, x.size, least(n, x.length - first), to, x.size, factor);
}

} // namespace
} // namespace pfk::cpu
