// jump_step on the CPU: the gate is drawn first, and nothing is read of tokens that stay. Few symbols: sixteen tokens
// lie along the lanes. Many: chunks, each relative to its own maximum, so that a logit is read and exponentiated once,
// and those of the chosen chunk once more. With top_k or top_p all exponentials of a token stay in a buffer.
// Compiled once per instruction set.

#include "../math/jump_step.h"
#include "random_numbers.h"
#include "threshold.h"
#include "token_lanes.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kLawless = -1;

// The first of n numbers, a multiple of kLanes, whose sum with those before it is more than `share` of all of them.
template <class A> int64_t pick(const A* e, int64_t n, double share) {
    double sums[kChunk / kLanes], whole = 0;
    for (int64_t i = 0; i < n; i += kLanes) {
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t l = 0; l < kLanes; ++l)
            sum += e[i + l];
        sums[i / kLanes] = static_cast<double>(sum);
        whole += sums[i / kLanes];
    }
    double wanted = share * whole;
    int64_t i = 0, last = 0;
    for (; i + kLanes < n && sums[i / kLanes] <= wanted; i += kLanes)
        wanted -= sums[i / kLanes];
    for (int64_t l = 0; l < n; ++l) { // from there on; what rounding leaves over goes to the last that can be
        const int64_t at = i + l < n ? i + l : i + l - n;
        if (at < i && e[last] > 0)
            break;
        last = e[at] > 0 ? at : last;
        wanted -= static_cast<double>(e[at]);
        if (wanted < 0 && e[at] > 0)
            return at;
    }
    return last;
}

template <class T, class A> class Walk {
  public:
    explicit Walk(const JumpStep& p)
        : p_(p), cut_(p.temperature == 0 || p.top_p < 1 || (p.top_k > 0 && p.top_k < p.size)),
          few_(p.size <= kFew && !cut_), chunks_((p.size + kChunk - 1) / kChunk), wide_(padded(p.size)),
          inverse_(p.temperature > kColdest ? A(1 / p.temperature) : A(1 / kColdest)),
          scratch_(static_cast<int64_t>(sizeof(A)) * (cut_ ? 2 * wide_ + kLanes : kChunk) + 16 * chunks_ +
                   8 * (few_ ? wide_ : 0) + 256),
          tokens_(few_ ? p.size : 0) {
        logits_ = scratch_.template take<A>(cut_ ? wide_ : kChunk);
        more_ = scratch_.template take<A>(cut_ ? wide_ + kLanes : 0);
        most_ = scratch_.template take<A>(chunks_);
        weights_ = scratch_.template take<double>(few_ ? wide_ : chunks_);
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
        if (waiting_ > 0)
            draw_few();
    }

  private:
    static constexpr double kColdest = sizeof(A) == 4 ? 1e-30 : 1e-300;

    void decide(const Place& place, const Words& words) {
        const Gate gate = Gate::of(p_, place, words);
        const Fate fate = gate.fate(p_, place);
        int64_t& out = p_.out[place.index];
        if (fate != Fate::Drawn) {
            out = fate == Fate::Noise ? gate.noise(p_) : gate.token;
        } else if (!few_) {
            out = cut_ ? drawn_cut(place, gate) : drawn(place, gate);
        } else {
            gates_[waiting_] = gate, places_[waiting_] = place;
            if (++waiting_ == kLanes)
                draw_few();
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
        const Patch<A> patches[] = {{gate.token, p_.rates ? kNever<A> : score}, of_mask()};
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
        sum = exponentiate(scores, padded(n), level(most), inverse_, logits_);
        return most;
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
        const double whole = exponentiate(logits_, wide_, level(most), inverse_, logits_);
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

    // ---- few symbols: a token is a lane

    void draw_few() {
        const T* logits[kLanes];
        A mine[kLanes], most[kLanes], part[kLanes];
        double sums[kLanes] = {};
        for (int64_t l = 0; l < waiting_; ++l)
            logits[l] = logits_of(places_[l]), mine[l] = own(logits[l], gates_[l]);
        tokens_.read(logits, waiting_);
        for (int64_t l = 0; l < waiting_; ++l) {
            if (inside(gates_[l].token))
                tokens_.at(gates_[l].token, l) = p_.rates ? kNever<A> : mine[l];
            if (inside(p_.mask))
                tokens_.at(p_.mask, l) = kNever<A>;
        }
        tokens_.maxima(most);
        tokens_.exponentiate(most, inverse_);
        for (int64_t first = 0; first < p_.size; first += kLanes) { // sums of some in A, of these in double
            tokens_.sum(first, first + kLanes < p_.size ? first + kLanes : p_.size, part);
            for (int64_t l = 0; l < kLanes; ++l)
                weights_[first + l] = sums[l] += static_cast<double>(part[l]);
        }
        for (int64_t l = 0; l < waiting_; ++l)
            p_.out[places_[l].index] = settled(gates_[l], most[l], sums[l], this->mine(mine[l], most[l]),
                                               [&](double wanted) { return of_lane(l, wanted); });
        waiting_ = 0;
    }

    int64_t of_lane(int64_t lane, double wanted) {
        const A* const e = tokens_.scores() + lane;
        int64_t first = 0, last = 0;
        for (; first + kLanes < p_.size && weights_[first + lane] <= wanted; first += kLanes)
            ;
        A sum = 0; // in the order of the sums above
        const double rest = first == 0 ? wanted : wanted - weights_[first - kLanes + lane];
        for (int64_t k = first; k < p_.size; ++k) {
            sum += e[k * kLanes];
            last = e[k * kLanes] > 0 ? k : last;
            if (static_cast<double>(sum) > rest && e[k * kLanes] > 0)
                return k;
        }
        return last;
    }

    const JumpStep& p_;
    const bool cut_, few_;
    const int64_t chunks_, wide_;
    const A inverse_;
    Scratch scratch_;
    TokenLanes<T, A> tokens_; // of few symbols
    A *logits_, *more_, *most_;
    double* weights_;
    int64_t waiting_ = 0;
    Place places_[kLanes];
    Gate gates_[kLanes];
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
