// discrete_loss on the CPU: one exponential a logit and direction. Forward, the logits of sixteen tokens lie along the
// lanes where symbols are few, are reduced together where a token's fit in L1, and else go by chunks, relative to the
// maximum so far. Back, exponentials go from the logits straight to the gradient, as the sums are known. Compiled once
// per instruction set.

#include "../math/discrete_loss.h"
#include "token_lanes.h"

namespace pfk::cpu {
namespace {

template <class A> const A kNone = static_cast<A>(__builtin_nan(""));

// Sixteen tokens or fewer, whose scalars lie side by side.
template <class T, class A> struct Group {
    A counted[kLanes], bound[kLanes], ce[kLanes]; // 0 or 1
    A score[kLanes], now_score[kLanes];           // of x1; of x_t where the bound is asked for, -infinity else

    Group(const DiscreteLoss& p, int64_t first, int64_t n) {
        for (int64_t l = 0; l < kLanes; ++l) {
            const int64_t index = first + (l < n ? l : 0);
            const Cost cost = Cost::of(p, index);
            const T* const logits = static_cast<const T*>(p.logits) + p.at(index, p.logits_stride, p.size);
            counted[l] = cost.counted, bound[l] = cost.bound, ce[l] = cost.ce;
            score[l] = cost.counted ? score_of(p, logits, p.x1[index]) : A(0);
            now_score[l] = cost.counted && cost.bound ? score_of(p, logits, p.x_t[index]) : kNever<A>;
        }
    }

  private:
    static A score_of(const DiscreteLoss& p, const T* logits, int64_t symbol) {
        return symbol == p.mask ? kNever<A> : symbol >= 0 && symbol < p.size ? load<A>(logits[symbol]) : kNone<A>;
    }
};

// The maxima of all but the mask, and the sums of the exponentials less these, without the token's own symbol where the
// bound is asked for.
template <class T, class A> class Sums {
  public:
    explicit Sums(const DiscreteLoss& p)
        : p_(p), few_(p.size <= kFew), abreast_(p.size <= kChunk), wide_(few_       ? 0
                                                                         : abreast_ ? padded(p.size) * kLanes
                                                                                    : kChunk),
          scratch_(static_cast<int64_t>(sizeof(A)) * wide_), tokens_(few_ ? p.size : 0),
          room_(scratch_.template take<A>(wide_)) {}

    void of(const Group<T, A>& group, int64_t first, int64_t n, A* most, A* sums) {
        if (few_)
            return few(group, first, n, most, sums);
        if (abreast_)
            return abreast(group, first, n, most, sums);
        for (int64_t l = 0; l < kLanes; ++l)
            most[l] = A(0), sums[l] = A(1);
        for (int64_t l = 0; l < n; ++l)
            if (group.counted[l] != 0)
                by_chunks(logits_of(first + l), own(group, first, l), most[l], sums[l]);
    }

  private:
    const T* logits_of(int64_t index) const {
        return static_cast<const T*>(p_.logits) + p_.at(index, p_.logits_stride, p_.size);
    }
    // The symbol that is left out of the sum, negative for none.
    int64_t own(const Group<T, A>& group, int64_t first, int64_t l) const {
        const int64_t now = p_.x_t[first + l];
        return group.bound[l] != 0 && now < p_.size ? now : -1;
    }

    void few(const Group<T, A>& group, int64_t first, int64_t n, A* most, A* sums) {
        const T* logits[kLanes];
        for (int64_t l = 0; l < kLanes; ++l)
            logits[l] = logits_of(first + (l < n ? l : 0));
        tokens_.read(logits, n);
        for (int64_t l = 0; l < kLanes && p_.mask >= 0 && p_.mask < p_.size; ++l)
            tokens_.at(p_.mask, l) = kNever<A>;
        tokens_.maxima(most);
        for (int64_t l = 0; l < n; ++l)
            if (const int64_t left = own(group, first, l); left >= 0)
                tokens_.at(left, l) = kNever<A>;
        tokens_.exponentiate(most, A(1));
        tokens_.sum(0, p_.size, sums);
    }

    void abreast(const Group<T, A>& group, int64_t first, int64_t n, A* most, A* sums) {
        alignas(64) A lanes[kLanes][kLanes] = {};
        const int64_t wide = padded(p_.size);
        const Patch<A> patches[] = {{p_.mask, kNever<A>}};
        const A* scores[kLanes];
        for (int64_t l = 0; l < n; ++l) {
            const int64_t left = own(group, first, l);
            A* const room = room_ + l * wide;
            if (first + kLanes + l < p_.rows)
                prefetch(logits_of(first + kLanes + l), p_.size);
            scores[l] = staged<T, A>(logits_of(first + l), 0, p_.size, patches, room);
            maxima(scores[l], wide, lanes[l]);
            if (left < 0)
                continue;
            if (scores[l] != room)
                copy(scores[l], room, p_.size);
            room[left] = kNever<A>;
            scores[l] = room;
        }
        across(lanes, most, [](A one, A other) { return other > one ? other : one; });
        for (int64_t l = 0; l < n; ++l)
            sum_exponentials(scores[l], wide, level(most[l]), lanes[l]);
        across(lanes, sums, [](A one, A other) { return one + other; });
    }

    void by_chunks(const T* logits, int64_t left, A& most, A& sum) {
        const Patch<A> mask[] = {{p_.mask, kNever<A>}};
        most = kNever<A>, sum = A(0);
        for (int64_t first = 0; first < p_.size; first += kChunk) {
            const int64_t n = p_.size - first < kChunk ? p_.size - first : kChunk;
            const A* scores = staged<T, A>(logits, first, n, mask, room_);
            const A here = maximum(scores, padded(n)), rest = most;
            most = here > most ? here : most;
            if (left >= first && left < first + n) {
                if (scores != room_)
                    copy(scores, room_, n);
                room_[left - first] = kNever<A>;
                scores = room_;
            }
            alignas(64) A lanes[kLanes];
            sum_exponentials(scores, padded(n), level(most), lanes);
            RowSum<A> part;
            part.add_lanes(lanes, kLanes);
            sum = (rest < most ? sum * pfk::exp(rest - most) : sum) + part.total();
        }
    }

    const DiscreteLoss& p_;
    const bool few_, abreast_;
    const int64_t wide_;
    Scratch scratch_;
    TokenLanes<T, A> tokens_;
    A* const room_;
};

template <class T, class A> void losses(const DiscreteLoss& p, Sums<T, A>& reading, int64_t first, int64_t n) {
    const Group<T, A> group(p, first, n);
    A most[kLanes], sum[kLanes], loss[kLanes], sums[kSums * kLanes];
    reading.of(group, first, n, most, sum);
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
        const bool finite = most[l] < -kNever<A> && most[l] > kNever<A>, counted = group.counted[l] != 0;
        const A others = finite ? sum[l] : kNone<A>, own = exp_falling(group.now_score[l] - most[l]);
        const A total = others + own, by_log = (most[l] - group.score[l]) + log(total) - group.bound[l] * (own / total);
        loss[l] = !counted ? A(0) : group.ce[l] == 0 ? others / total : by_log;
        sums[kSums * l] = counted ? most[l] : A(0);
        sums[kSums * l + 1] = counted ? others : A(1);
        sums[kSums * l + 2] = counted ? own : A(0);
    }
    copy(loss, static_cast<A*>(p.loss) + first, n);
    copy(sums, static_cast<A*>(p.sums) + kSums * first, kSums * n);
}

template <class T, class A> void gradients(const DiscreteLoss& p, int64_t first, int64_t n) {
    const Group<T, A> group(p, first, n);
    A most[kLanes], others[kLanes], own[kLanes], scale[kLanes], slope[kLanes], at_now[kLanes], at_data[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
        const int64_t index = first + (l < n ? l : 0);
        const A* const sums = static_cast<const A*>(p.sums) + p.at(index, p.sums_stride, kSums);
        most[l] = sums[0], others[l] = sums[1], own[l] = sums[2];
        scale[l] = static_cast<const A*>(p.dloss)[p.at(index, p.dloss_stride, 1)];
    }
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
        const A total = others[l] + own[l], p_t = own[l] / total;
        slope[l] = scale[l] * (group.ce[l] + p_t) / total;
        // p (ce + p - 1), but 1 - p without a difference
        at_now[l] = scale[l] * p_t * (group.ce[l] != 0 ? p_t : -others[l] / total);
        at_data[l] = slope[l] * exp_falling(group.score[l] - most[l]) - scale[l];
    }
    for (int64_t l = 0; l < n; ++l) {
        const int64_t index = first + l, now = p.x_t[index], data = p.x1[index];
        const T* const logits = static_cast<const T*>(p.logits) + p.at(index, p.logits_stride, p.size);
        T* const out = static_cast<T*>(p.dlogits) + p.at(index, p.dlogits_stride, p.size);
        if (group.counted[l] == 0) {
            for (int64_t i = 0; i < p.size; ++i)
                store(out[i], A(0));
            continue;
        }
        const A shift = most[l], factor = slope[l];
        if (p.size <= kChunk && index + kLanes < p.rows)
            prefetch(static_cast<const T*>(p.logits) + p.at(index + kLanes, p.logits_stride, p.size), p.size);
#pragma omp simd
        for (int64_t i = 0; i < p.size; ++i)
            store(out[i], exp_falling(load<A>(logits[i]) - shift) * factor);
        const auto put = [&](int64_t symbol, A value) {
            if (symbol >= 0 && symbol < p.size)
                store(out[symbol], value);
        };
        put(p.mask, factor * A(0)); // NaN, too
        if (group.bound[l] != 0)
            put(now, at_now[l]);
        if (group.ce[l] != 0)
            put(data, at_data[l]);
    }
}

// Calls body(first, how many) for tokens [begin, end), sixteen at a time.
template <class Body> void for_groups(int64_t begin, int64_t end, const Body& body) {
    for (int64_t first = begin; first < end; first += kLanes)
        body(first, end - first < kLanes ? end - first : kLanes);
}

} // namespace

namespace PFK_ISA {

void discrete_loss(const DiscreteLoss& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        Sums<decltype(in_memory), decltype(arithmetic)> sums(p);
        for_groups(begin, end, [&](int64_t first, int64_t n) { losses(p, sums, first, n); });
    });
}

void discrete_loss_backward(const DiscreteLoss& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        for_groups(begin, end, [&](int64_t first, int64_t n) {
            gradients<decltype(in_memory), decltype(arithmetic)>(p, first, n);
        });
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
