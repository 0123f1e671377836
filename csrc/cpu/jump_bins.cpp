// jump_bins on the CPU: the mass below every edge of a tile of bins, then the differences. Compiled once per
// instruction set.

#include "../math/jump_bins.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

template <class A> void masses_of(const JumpLaw<A>& law, const JumpBins& p, A* masses) {
    const A low = static_cast<A>(p.low), width = static_cast<A>((p.high - p.low) / static_cast<double>(p.bins));
    alignas(64) A below[kTile + 1];
    below[0] = law.mass_below(law.lower);
    for (int64_t first = 0; first < p.bins; first += kTile) {
        const int64_t n = p.bins - first < kTile ? p.bins - first : kTile;
#pragma omp simd
        for (int64_t j = 1; j <= n; ++j)
            below[j] = law.mass_below(law.noise_at(low + width * static_cast<A>(static_cast<int32_t>(first + j))));
        if (first + n == p.bins)
            below[n] = law.mass_below(law.upper);
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) {
            const A mass = below[j + 1] - below[j];
            masses[first + j] = mass < A(0) ? A(0) : mass;
        }
        below[0] = below[n];
    }
}

template <class T, class A> void bin_rows(const JumpBins& p, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const T* const x0 = static_cast<const T*>(p.x0) + row * p.x0_stride;
        const T* const x1 = static_cast<const T*>(p.x1) + row * p.x1_stride;
        const A t = static_cast<const A*>(p.t)[row * p.t_stride];
        A* const rate = static_cast<A*>(p.rate) + row * p.size;
        A* const masses = static_cast<A*>(p.masses) + row * p.size * p.bins;
        for (int64_t i = 0; i < p.size; ++i) {
            const A z = load<A>(x1[i]);
            rate[i] = jump_rate(load<A>(x0[i]), z);
            masses_of(JumpLaw<A>::of(z, t), p, masses + i * p.bins);
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
