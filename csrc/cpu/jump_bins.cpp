// jump_bins on the CPU: the mass below every edge of a tile of bins, then the differences. Compiled once per
// instruction set.

#include "../math/jump_bins.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kStage = 64; // coordinates whose laws are made at a time

template <class A> void masses_of(const JumpLaw<A>& law, const JumpBins& p, A* masses) {
    const A low = static_cast<A>(p.low), width = static_cast<A>((p.high - p.low) / static_cast<double>(p.bins));
    alignas(64) A edges[kLanes + kTile]; // the mass below the upper edge of each bin, whose first stands aligned
    A* const below = edges + kLanes;
    below[-1] = law.mass_below(law.lower);
    for (int64_t first = 0; first < p.bins; first += kTile) {
        const int64_t n = p.bins - first < kTile ? p.bins - first : kTile;
        const A start = static_cast<A>(first + 1);
#pragma omp simd
        for (int64_t j = 0; j < n; ++j)
            below[j] = law.mass_below(law.noise_at(low + width * (start + static_cast<A>(static_cast<int32_t>(j)))));
        if (first + n == p.bins)
            below[n - 1] = law.mass_below(law.upper);
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) {
            const A mass = below[j] - below[j - 1];
            masses[first + j] = mass < A(0) ? A(0) : mass;
        }
        below[-1] = below[n - 1];
    }
}

// The laws of n neighbouring coordinates, each a lane.
template <class A> struct Laws {
    A centre[kStage], slope[kStage], data[kStage], lower[kStage], upper[kStage], scale[kStage];

    template <class T> void fill(const T* x0, const T* x1, A t, A* rate, int64_t n) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const A z = load<A>(x1[i]);
            const JumpLaw<A> law = JumpLaw<A>::of(z, t);
            centre[i] = law.centre, slope[i] = law.slope, data[i] = law.data;
            lower[i] = law.lower, upper[i] = law.upper, scale[i] = law.scale;
            rate[i] = jump_rate(load<A>(x0[i]), z);
        }
    }

    JumpLaw<A> operator[](int64_t i) const { return {centre[i], slope[i], data[i], lower[i], upper[i], scale[i]}; }
};

template <class T, class A> void bin_rows(const JumpBins& p, int64_t begin, int64_t end) {
    Laws<A> laws;
    for (int64_t row = begin; row < end; ++row) {
        const T* const x0 = static_cast<const T*>(p.x0) + row * p.x0_stride;
        const T* const x1 = static_cast<const T*>(p.x1) + row * p.x1_stride;
        const A t = static_cast<const A*>(p.t)[row * p.t_stride];
        A* const rate = static_cast<A*>(p.rate) + row * p.size;
        A* const masses = static_cast<A*>(p.masses) + row * p.size * p.bins;
        for (int64_t first = 0; first < p.size; first += kStage) {
            const int64_t n = p.size - first < kStage ? p.size - first : kStage;
            laws.fill(x0 + first, x1 + first, t, rate + first, n);
            for (int64_t i = 0; i < n; ++i)
                masses_of(laws[i], p, masses + (first + i) * p.bins);
        }
    }
}

} // namespace

namespace PFK_ISA {

void jump_bins(const JumpBins& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        bin_rows<decltype(in_memory), decltype(arithmetic)>(p, begin, end);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
