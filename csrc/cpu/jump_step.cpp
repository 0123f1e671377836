// jump_step on the CPU: the gate is drawn first, and nothing is read of tokens that stay. Those that are drawn wait,
// their logits on the way, until there are some groups of sixteen. Few symbols: these lie along the lanes. More: a row
// each, reduced together. Many: token by token in chunks, each relative to its own maximum, so that a logit is read and
// exponentiated once, and those of the chosen chunk once more. With top_k or top_p all exponentials of a token stay in
// a buffer. Within a chunk symbols are counted up lane by lane. Compiled once per instruction set.

#include "../math/jump_step.h"
#include "random_numbers.h"
#include "threshold.h"
#include "token_lanes.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kLawless = -1;

// The first of `count` numbers, `step` apart, whose sum with those before it is more than `wanted`; what rounding
// leaves over goes to the last that can be.
template <class A> int64_t reached(const A* e, int64_t step, int64_t count, double wanted) {
    A sum = 0; // in the order of the lanes' sums
    int64_t last = 0;
    for (int64_t i = 0; i < count; ++i) {
        sum += e[i * step];
        last = e[i * step] > 0 ? i : last;
        if (static_cast<double>(sum) > wanted && e[i * step] > 0)
            return i;
    }
    return last;
}

// The same of n numbers, a multiple of kLanes, lane by lane, and of a share of their sum.
template <class A> int64_t pick(const A* e, int64_t n, double share) {
    RowSum<A> sums;
    A lanes[kLanes];
    sums.add_lanes(e, n);
    __builtin_memcpy(lanes, &sums.lanes, sizeof(lanes));
    double whole = 0;
    for (int64_t l = 0; l < kLanes; ++l)
        whole += static_cast<double>(lanes[l]);
    double wanted = share * whole;
    int64_t lane = 0;
    for (int64_t l = 0; l < kLanes; ++l) {
        lane = lanes[l] > 0 ? l : lane;
        if (wanted < static_cast<double>(lanes[l]))
            break;
        wanted -= static_cast<double>(lanes[l]);
    }
    return lane + kLanes * reached(e + lane, kLanes, n / kLanes, wanted);
}

template <class T, class A> class Walk {
  public:
    explicit Walk(const JumpStep& p)
        : p_(p), cut_(p.temperature == 0 || p.top_p < 1 || (p.top_k > 0 && p.top_k < p.size)),
          few_(p.size <= kFew && !cut_), grouped_(p.size <= kChunk && !cut_), chunks_((p.size + kChunk - 1) / kChunk),
          wide_(padded(p.size)), inverse_(p.temperature > kColdest ? A(1 / p.temperature) : A(1 / kColdest)),
          scratch_(static_cast<int64_t>(sizeof(A)) * (cut_ ? 2 * wide_ + kLanes : kLanes * kChunk) + 16 * chunks_ +
                   256),
          tokens_(few_ ? p.size : 0) {
        logits_ = scratch_.template take<A>(cut_ ? wide_ : grouped_ ? kLanes * wide_ : kChunk);
        more_ = scratch_.template take<A>(cut_ ? wide_ + kLanes : 0);
        most_ = scratch_.template take<A>(chunks_);
        weights_ = scratch_.template take<double>(chunks_);
    }

    void run(int64_t begin, int64_t end) {
        alignas(64) uint32_t words[4][kCounters];
        Counters at = {};
        Place next = Place::of(p_, begin);
        for (int64_t first = begin; first < end; first += kCounters) {
            const int64_t n = end - first < kCounters ? end - first : kCounters;
            Place places[kCounters];
            for (int64_t i = 0; i < n; ++i, next.step(p_)) {
                places[i] = next;
                at.key[i] = static_cast<uint64_t>(p_.keys[next.row]);
                at.block[i] = static_cast<uint64_t>(next.place);
                at.draw[i] = p_.step;
            }
            philox(at, kJump, words);
            for (int64_t i = 0; i < n; ++i)
                decide(places[i], {{words[0][i], words[1][i], words[2][i], words[3][i]}});
        }
        while (waiting_ > 0)
            draw_group();
    }

  private:
    static constexpr double kColdest = sizeof(A) == 4 ? 1e-30 : 1e-300;

    void decide(const Place& place, const Words& words) {
        const int64_t at = (first_ + waiting_) % kWaiting; // if it has to wait: a copy would have to be waited for
        Gate& gate = gates_[at] = Gate::of(p_, place, words);
        const Fate fate = gate.fate(p_, place);
        int64_t& out = p_.out[place.index];
        if (fate != Fate::Drawn) {
            out = fate == Fate::Noise ? gate.noise(p_) : gate.token;
        } else if (!grouped_) {
            out = cut_ ? drawn_cut(place, gate) : drawn(place, gate);
        } else {
            places_[at] = place;
            prefetch(logits_of(place), p_.size);
            if (++waiting_ == kWaiting)
                draw_group();
        }
    }

    const T* logits_of(const Place& at) const {
        return static_cast<const T*>(p_.logits) + at.row * p_.logits_stride + at.place * p_.size;
    }
    bool inside(int64_t token) const { return token >= 0 && token < p_.size; }
    // The score of the symbol that is there now, -infinity for the mask.
    A own(const T* logits, const Gate& gate) const {
        return inside(gate.token) && gate.token != p_.mask ? load<A>(logits[gate.token]) + A(gate.own) : kNever<A>;
    }
    Patch<A> of_mask() const { return {p_.mask, kNever<A>}; }
    // What the token's own logit becomes, if it is another number.
    Patch<A> of_token(const Gate& gate, A score) const {
        return {p_.rates || gate.own != 0 ? gate.token : -1, p_.rates ? kNever<A> : score};
    }

    // The symbol for masses `whole`, relative to `most`, beside a mass `mine` of the token's own with rates.
    template <class Pick> int64_t settled(const Gate& gate, A most, double whole, double mine, const Pick& choose) {
        const bool none = most == kNever<A> && whole == 0;
        if (p_.rates && none && mine > 0 && mine <= kMost)
            return gate.token;
        if (!(most < -kNever<A>) || none || whole != whole || mine != mine)
            return kLawless;
        if (p_.rates && !gate.jumps(whole / (whole + mine)))
            return gate.token;
        return choose(gate.uniform * whole);
    }
    static constexpr double kMost = 1.7976931348623157e308;

    // ---- many symbols

    int64_t drawn(const Place& place, const Gate& gate) {
        const T* const logits = logits_of(place);
        const A score = own(logits, gate);
        const Patch<A> patches[] = {of_token(gate, score), of_mask()};
        A most = kNever<A>;
        for (int64_t c = 0; c < chunks_; ++c) {
            most_[c] = exponentials(logits, c, patches, weights_[c]);
            most = most_[c] > most ? most_[c] : most;
        }
        double whole = 0;
        for (int64_t c = 0; c < chunks_; ++c) {
            if (most_[c] != kNever<A>)
                weights_[c] *= static_cast<double>(pfk::exp((most_[c] - most) * inverse_));
            whole += weights_[c];
        }
        return settled(gate, most, whole, mine(score, most), [&](double wanted) {
            const int64_t c = chunk_of(wanted);
            double again;
            exponentials(logits, c, patches, again);
            return c * kChunk + pick(logits_, padded(length(c)), wanted / weights_[c]);
        });
    }

    // The token's own mass, relative to the others' maximum; infinite where that is far below.
    double mine(A score, A most) const {
        if (!p_.rates)
            return 0;
        if (!(score < -kNever<A>))
            return static_cast<double>(score - score); // NaN
        return most == kNever<A> ? score > most : pfk::exp(static_cast<double>((score - most) * inverse_));
    }

    int64_t length(int64_t chunk) const {
        return p_.size - chunk * kChunk < kChunk ? p_.size - chunk * kChunk : kChunk;
    }

    A exponentials(const T* logits, int64_t chunk, const Patch<A> (&patches)[2], double& sum) {
        const int64_t n = length(chunk);
        const A* const scores = staged<T, A>(logits, chunk * kChunk, n, patches, logits_);
        const A most = maximum(scores, padded(n));
        sum = sum_of(scores, padded(n), level(most), logits_);
        return most;
    }

    // Of exp((e - shift) inverse), which go to `to`.
    double sum_of(const A* e, int64_t n, A shift, A* to) const {
        RowSum<A> sum;
        A lanes[kLanes];
        exponentiate(e, n, shift, inverse_, to, lanes);
        sum.add_lanes(lanes, kLanes);
        return static_cast<double>(sum.total());
    }

    // The chunk in which the wanted part of the masses ends; leaves what of it lies there.
    int64_t chunk_of(double& wanted) const {
        int64_t c = 0, last = 0;
        for (; c < chunks_; ++c) {
            last = weights_[c] > 0 ? c : last;
            if (wanted < weights_[c])
                return c;
            wanted -= weights_[c];
        }
        wanted = weights_[last]; // rounding
        return last;
    }

    // ---- a law that is cut

    int64_t drawn_cut(const Place& place, const Gate& gate) {
        const T* const logits = logits_of(place);
        const Patch<A> patches[] = {{gate.token, own(logits, gate)}, of_mask()};
        A most = kNever<A>;
        for (int64_t c = 0; c < chunks_; ++c) {
            const A* const scores = staged<T, A>(logits, c * kChunk, length(c), patches, logits_ + c * kChunk);
            const A here = maximum(scores, padded(length(c)));
            if (scores != logits_ + c * kChunk)
                copy(scores, logits_ + c * kChunk, length(c));
            most = here > most ? here : most;
        }
        const double whole = sum_of(logits_, wide_, level(most), logits_);
        if (!(most < -kNever<A>) || most == kNever<A> || whole != whole)
            return kLawless;
        if (p_.temperature == 0)
            keep_first();
        if (p_.top_k > 0 && p_.top_k < p_.size)
            cut(threshold<false>(logits_, wide_, static_cast<double>(p_.top_k), more_));
        if (p_.top_p < 1)
            cut(threshold<true>(logits_, wide_, p_.top_p * weigh(), more_));
        double mine = 0;
        if (p_.rates && inside(gate.token))
            mine = static_cast<double>(logits_[gate.token]), logits_[gate.token] = A(0);
        return settled(gate, most, weigh(), mine, [&](double wanted) {
            const int64_t c = chunk_of(wanted);
            return c * kChunk + pick(logits_ + c * kChunk, padded(length(c)), wanted / weights_[c]);
        });
    }

    double weigh() {
        double whole = 0;
        for (int64_t c = 0; c < chunks_; ++c) {
            RowSum<A> sums;
            sums.add_lanes(logits_ + c * kChunk, padded(length(c)));
            whole += weights_[c] = static_cast<double>(sums.total());
        }
        return whole;
    }

    void cut(A least) {
        A* const e = logits_;
#pragma omp simd
        for (int64_t i = 0; i < wide_; ++i)
            e[i] = e[i] >= least ? e[i] : A(0);
    }

    void keep_first() {
        bool found = false;
        for (int64_t i = 0; i < wide_; ++i) {
            const bool first = !found && logits_[i] == A(1);
            logits_[i] = first ? A(1) : A(0);
            found |= first;
        }
    }

    // ---- sixteen tokens

    void draw_group() {
        const int64_t n = waiting_ < kLanes ? waiting_ : kLanes;
        const Gate* gates[kLanes];
        const T* logits[kLanes];
        A mine[kLanes] = {}, most[kLanes];
        alignas(64) A parts[kLanes][kLanes] = {}; // [lane of the symbol][token]: sums of every sixteenth mass
        for (int64_t l = 0; l < n; ++l) {
            const int64_t at = (first_ + l) % kWaiting;
            gates[l] = &gates_[at], logits[l] = logits_of(places_[at]), mine[l] = own(logits[l], gates_[at]);
        }
        few_ ? masses_along(logits, gates, mine, n, most, parts) : masses_by_row(logits, gates, mine, n, most, parts);
        double below[kLanes][kLanes], sums[kLanes] = {}, wanted[kLanes] = {};
        int64_t lane[kLanes] = {};
        for (int64_t k = 0; k < kLanes; ++k)
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l)
                below[k][l] = sums[l], sums[l] += static_cast<double>(parts[k][l]);
        for (int64_t l = 0; l < n; ++l)
            wanted[l] = gates[l]->uniform * sums[l];
        for (int64_t k = 1; k < kLanes; ++k)
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l)
                lane[l] += below[k][l] <= wanted[l];
        for (int64_t l = 0; l < n; ++l)
            p_.out[places_[(first_ + l) % kWaiting].index] =
                settled(*gates[l], most[l], sums[l], this->mine(mine[l], most[l]), [&](double) {
                    int64_t k = lane[l]; // behind the last mass there are empty lanes
                    while (k > 0 && !(parts[k][l] > 0))
                        --k;
                    const A* const e = few_ ? tokens_.scores() + k * kLanes + l : logits_ + l * wide_ + k;
                    const int64_t step = few_ ? kLanes * kLanes : kLanes, count = (p_.size - k + kLanes - 1) / kLanes;
                    return k + kLanes * reached(e, step, count, wanted[l] - below[k][l]);
                });
        first_ = (first_ + n) % kWaiting, waiting_ -= n;
    }

    void masses_along(const T* const* logits, const Gate* const* gates, const A* mine, int64_t n, A* most,
                      A (*parts)[kLanes]) {
        tokens_.read(logits, n);
        for (int64_t l = 0; l < n; ++l)
            if (inside(gates[l]->token))
                tokens_.at(gates[l]->token, l) = p_.rates ? kNever<A> : mine[l];
        for (int64_t l = 0; l < n && inside(p_.mask); ++l)
            tokens_.at(p_.mask, l) = kNever<A>;
        tokens_.maxima(most);
        tokens_.exponentiate(most, inverse_);
        const A* const e = tokens_.scores();
        for (int64_t k = 0; k < p_.size; ++k)
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l)
                parts[k % kLanes][l] += e[k * kLanes + l];
    }

    void masses_by_row(const T* const* logits, const Gate* const* gates, const A* mine, int64_t n, A* most,
                       A (*parts)[kLanes]) {
        alignas(64) A lanes[kLanes][kLanes] = {};
        const A* scores[kLanes];
        for (int64_t l = 0; l < n; ++l) {
            const Patch<A> patches[] = {of_token(*gates[l], mine[l]), of_mask()};
            scores[l] = staged<T, A>(logits[l], 0, p_.size, patches, logits_ + l * wide_);
            maxima(scores[l], wide_, lanes[l]);
        }
        across(lanes, most, [](A one, A other) { return other > one ? other : one; });
        for (int64_t l = 0; l < n; ++l)
            exponentiate(scores[l], wide_, level(most[l]), inverse_, logits_ + l * wide_, lanes[l]);
        transpose<A>(lanes[0], kLanes, kLanes, kLanes, parts[0], kLanes);
    }

    const JumpStep& p_;
    static constexpr int64_t kWaiting = 4 * kLanes;

    const bool cut_, few_, grouped_;
    const int64_t chunks_, wide_;
    const A inverse_;
    Scratch scratch_;
    TokenLanes<T, A> tokens_; // of few symbols
    A *logits_, *more_, *most_;
    double* weights_;
    int64_t first_ = 0, waiting_ = 0; // of those that are to be drawn
    Place places_[kWaiting];
    Gate gates_[kWaiting];
};

} // namespace

namespace PFK_ISA {

void jump_step(const JumpStep& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        Walk<decltype(in_memory), decltype(arithmetic)>(p).run(begin, end);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
