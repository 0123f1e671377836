// discrete_loss on the CPU: one exponential a logit, relative to the maximum of its chunk; the gradient keeps them in a
// buffer and scales them on the way out. Compiled once per instruction set.

#include "../math/discrete_loss.h"
#include "token_lanes.h"

namespace pfk::cpu {
namespace {

template <class T, class A> class Costs {
  public:
    Costs(const DiscreteLoss& p, bool keep)
        : p_(p), keep_(keep), chunks_((p.size + kChunk - 1) / kChunk),
          scratch_(static_cast<int64_t>(sizeof(A)) * ((keep ? padded(p.size) : kChunk) + 2 * chunks_) + 256) {
        e_ = scratch_.template take<A>(keep ? padded(p.size) : kChunk);
        most_of_ = scratch_.template take<A>(chunks_);
        sums_ = scratch_.template take<A>(chunks_);
    }

    // The losses of at most kLanes tokens, with one logarithm for all.
    void losses(int64_t first, int64_t count) {
        A total[kLanes], gap[kLanes], less[kLanes];
        for (int64_t i = 0; i < kLanes; ++i)
            total[i] = A(1), gap[i] = less[i] = A(0);
        for (int64_t i = 0; i < count; ++i) {
            const Cost cost = Cost::of(p_, first + i);
            if (!cost.counted)
                continue;
            read(first + i, cost);
            if (cost.ce)
                total[i] = total_, gap[i] = most_ - score(logits_, p_.x1[first + i]),
                less[i] = cost.bound ? mine() : A(0);
            else
                less[i] = -others_ / total_;
        }
        A* const loss = static_cast<A*>(p_.loss) + first;
        A found[kLanes];
#pragma omp simd
        for (int64_t i = 0; i < kLanes; ++i)
            found[i] = gap[i] + log(total[i]) - less[i];
        copy(found, loss, count);
    }

    void gradients(int64_t first, int64_t n) {
        for (int64_t i = 0; i < n; ++i)
            gradient(first + i);
    }

  private:
    void gradient(int64_t index) {
        T* const out = static_cast<T*>(p_.dlogits) + index * p_.size;
        const Cost cost = Cost::of(p_, index);
        if (!cost.counted) {
            for (int64_t i = 0; i < p_.size; ++i)
                store(out[i], A(0));
            return;
        }
        read(index, cost);
        const int64_t now = p_.x_t[index], data = p_.x1[index];
        const A scale = static_cast<const A*>(p_.dloss)[p_.at(index, p_.dloss_stride, 1)];
        const A p_t = cost.bound ? mine() : A(0), ce = cost.ce ? A(1) : A(0), slope = scale * (ce + p_t) / total_;
        for (int64_t c = 0; c < chunks_; ++c) {
            const A* const e = e_ + c * kChunk;
            const A factor = slope * relative(c);
            T* const to = out + c * kChunk;
            const int64_t n = length(c);
#pragma omp simd
            for (int64_t i = 0; i < n; ++i)
                store(to[i], e[i] * factor);
        }
        if (cost.bound && inside(now)) // p (ce + p - 1), but 1 - p without a difference
            store(out[now], scale * p_t * (cost.ce ? p_t : -others_ / total_));
        if (cost.ce && inside(data))
            store(out[data], slope * exp_falling(score(logits_, data) - most_) - scale);
    }

    bool inside(int64_t symbol) const { return symbol >= 0 && symbol < p_.size; }
    A score(const T* logits, int64_t symbol) const {
        return symbol == p_.mask ? kNever<A>
               : inside(symbol)  ? load<A>(logits[symbol])
                                 : static_cast<A>(__builtin_nan(""));
    }
    int64_t length(int64_t chunk) const {
        return p_.size - chunk * kChunk < kChunk ? p_.size - chunk * kChunk : kChunk;
    }
    // What a chunk's exponentials are worth among all.
    A relative(int64_t chunk) const {
        return chunks_ == 1 && alone_ ? A(1) : most_of_[chunk] == kNever<A> ? A(1) : exp(most_of_[chunk] - most_);
    }
    // p(x_t): its exponential is left out of the others, so that 1 - p is their share.
    A mine() const { return own_ / total_; }

    void read(int64_t index, const Cost& cost) {
        const int64_t now = p_.x_t[index];
        logits_ = static_cast<const T*>(p_.logits) + p_.at(index, p_.logits_stride, p_.size);
        const Patch<A> patches[] = {{cost.bound ? now : -1, kNever<A>}, {p_.mask, kNever<A>}};
        const A own = cost.bound ? score(logits_, now) : kNever<A>;
        most_ = own;
        for (int64_t c = 0; c < chunks_; ++c) {
            const int64_t n = length(c);
            A* const room = e_ + (keep_ ? c * kChunk : 0);
            const A* const scores = staged<T, A>(logits_, c * kChunk, n, patches, room);
            most_of_[c] = maximum(scores, padded(n));
            sums_[c] = static_cast<A>(exponentiate(scores, padded(n), level(most_of_[c]), A(1), room));
            most_ = most_of_[c] > most_ ? most_of_[c] : most_;
        }
        alone_ = chunks_ == 1 && most_of_[0] == most_;
        others_ = 0;
        for (int64_t c = 0; c < chunks_; ++c)
            others_ += sums_[c] * relative(c);
        own_ = cost.bound ? (own == most_ ? A(1) : exp(own - most_)) : A(0);
        total_ = most_ < -kNever<A> && most_ > kNever<A> ? others_ + own_ : static_cast<A>(__builtin_nan(""));
    }

    const DiscreteLoss& p_;
    const bool keep_;
    const int64_t chunks_;
    Scratch scratch_;
    A *e_, *most_of_, *sums_;
    const T* logits_ = nullptr; // of the token that was read last, and what came of them:
    A most_, others_, own_, total_;
    bool alone_;
};

constexpr int64_t kFewest = 64; // symbols up to which sixteen tokens at a time are the faster way

// Few symbols: sixteen tokens at a time.
template <class T, class A> class FewCosts {
  public:
    explicit FewCosts(const DiscreteLoss& p) : p_(p), tokens_(p.size) {}

    void losses(int64_t first, int64_t n) {
        read(first, n);
        A found[kLanes];
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l) {
            const A total = others_[l] + own_[l];
            const A by_log = gap_[l] + log(total) - bound_[l] * (own_[l] / total);
            found[l] = counted_[l] == 0 ? A(0) : ce_[l] == 0 ? others_[l] / total : by_log;
        }
        copy(found, static_cast<A*>(p_.loss) + first, n);
    }

    void gradients(int64_t first, int64_t n) {
        read(first, n);
        A p_t[kLanes], slope[kLanes], scale[kLanes];
        for (int64_t l = 0; l < kLanes; ++l) {
            scale[l] = l < n && counted_[l] != 0 ? static_cast<const A*>(p_.dloss)[p_.at(first + l, p_.dloss_stride, 1)]
                                                 : A(0);
            const A total = others_[l] + own_[l];
            p_t[l] = bound_[l] * own_[l] / total;
            slope[l] = scale[l] * (ce_[l] + p_t[l]) / total * rescale_[l];
        }
        A* const e = tokens_.scores();
        for (int64_t k = 0; k < p_.size; ++k)
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l)
                e[k * kLanes + l] = counted_[l] == 0 ? A(0) : e[k * kLanes + l] * slope[l];
        for (int64_t l = 0; l < n; ++l) {
            const int64_t now = p_.x_t[first + l], data = p_.x1[first + l];
            if (counted_[l] == 0)
                continue;
            if (bound_[l] != 0 && inside(now)) // p (ce + p - 1), but 1 - p without a difference
                tokens_.at(now, l) = scale[l] * p_t[l] * (ce_[l] != 0 ? p_t[l] : -others_[l] / (others_[l] + own_[l]));
            if (ce_[l] != 0 && inside(data))
                tokens_.at(data, l) -= scale[l];
        }
        tokens_.write(static_cast<T*>(p_.dlogits) + first * p_.size, n);
    }

  private:
    bool inside(int64_t symbol) const { return symbol >= 0 && symbol < p_.size; }

    void read(int64_t first, int64_t n) {
        const T* logits[kLanes];
        A score[kLanes], now_score[kLanes], most[kLanes];
        for (int64_t l = 0; l < kLanes; ++l) {
            const int64_t index = first + (l < n ? l : 0);
            logits[l] = static_cast<const T*>(p_.logits) + p_.at(index, p_.logits_stride, p_.size);
        }
        tokens_.read(logits, n);
        for (int64_t l = 0; l < kLanes; ++l) {
            const int64_t index = first + (l < n ? l : 0), now = p_.x_t[index], data = p_.x1[index];
            const Cost cost = Cost::of(p_, index);
            counted_[l] = cost.counted, bound_[l] = cost.bound, ce_[l] = cost.ce;
            score[l] = at(data, l), now_score[l] = cost.bound ? at(now, l) : kNever<A>;
            if (cost.bound && inside(now))
                tokens_.at(now, l) = kNever<A>;
        }
        for (int64_t l = 0; l < kLanes && inside(p_.mask); ++l)
            tokens_.at(p_.mask, l) = kNever<A>;
        tokens_.exponentiate(A(1), most);
        tokens_.sum(0, p_.size, others_);
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l) {
            const A own = now_score[l], top = own > most[l] ? own : most[l],
                    shift = most[l] == kNever<A> ? top : most[l];
            const bool finite = top < -kNever<A> && top > kNever<A>;
            rescale_[l] = exp_falling(shift - top); // of the others, whose maximum may be less
            others_[l] = finite ? others_[l] * rescale_[l] : static_cast<A>(__builtin_nan(""));
            own_[l] = bound_[l] == 0 ? A(0) : exp_falling(own - top);
            gap_[l] = top - score[l];
        }
    }
    A at(int64_t symbol, int64_t l) {
        return symbol == p_.mask ? kNever<A>
               : inside(symbol)  ? tokens_.at(symbol, l)
                                 : static_cast<A>(__builtin_nan(""));
    }

    const DiscreteLoss& p_;
    TokenLanes<T, A> tokens_;
    A counted_[kLanes], bound_[kLanes], ce_[kLanes], others_[kLanes], own_[kLanes], gap_[kLanes], rescale_[kLanes];
};

} // namespace

namespace PFK_ISA {

void discrete_loss(const DiscreteLoss& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        const auto walk = [&](auto&& costs) {
            for (int64_t first = begin; first < end; first += kLanes)
                costs.losses(first, end - first < kLanes ? end - first : kLanes);
        };
        using T = decltype(in_memory);
        using A = decltype(arithmetic);
        p.size <= kFewest ? walk(FewCosts<T, A>(p)) : walk(Costs<T, A>(p, false));
    });
}

void discrete_loss_backward(const DiscreteLoss& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        const auto walk = [&](auto&& costs) {
            for (int64_t first = begin; first < end; first += kLanes)
                costs.gradients(first, end - first < kLanes ? end - first : kLanes);
        };
        using T = decltype(in_memory);
        using A = decltype(arithmetic);
        p.size <= kFewest ? walk(FewCosts<T, A>(p)) : walk(Costs<T, A>(p, true));
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
