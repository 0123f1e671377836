// jump_bins on the GPU: a coordinate belongs to a few lanes, a warp or blocks, by the number of its bins alone; a lane
// takes four neighbouring bins at a time.

#include "../math/jump_bins.h"
#include "random_numbers.cuh"
#include "rows.cuh"

namespace pfk::cuda {
namespace {

template <bool Whole, class T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(double) ? 2 : 0)
    land(const JumpBins p, const Schedule schedule, arithmetic_t<T> low, arithmetic_t<T> width) {
    using A = arithmetic_t<T>;
    const Share share(schedule);
    if (share.row >= p.rows * p.size)
        return;
    const int64_t row = share.row / p.size, place = share.row - row * p.size;
    const A z = widen(static_cast<const T*>(p.x1)[row * p.x1_stride + place]);
    if (share.first == 0)
        static_cast<A*>(p.rate)[share.row] =
            jump_rate<A>(widen(static_cast<const T*>(p.x0)[row * p.x0_stride + place]), z);
    const JumpLaw<A> law = JumpLaw<A>::of(z, static_cast<const A*>(p.t)[row * p.t_stride]);
    const int bins = static_cast<int>(p.bins);
    const auto below = [&](int edge) { // the outermost are where jumps end to land
        const A e = law.noise_at(low + width * static_cast<A>(edge));
        return law.mass_below(edge == 0 ? law.lower : edge == bins ? law.upper : e);
    };
    A* const masses = static_cast<A*>(p.masses) + share.row * p.bins;
    for (int64_t group = share.first; group < share.end; group += schedule.lanes) {
        const int first = static_cast<int>(group) * kGroup;
        A last = below(first), mass[kGroup];
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            const A next = below(first + i + 1);
            mass[i] = next - last < A(0) ? A(0) : next - last;
            last = next;
        }
        write_group<Whole>(masses + first, bins - first, mass);
    }
}

} // namespace

Error jump_bins(const JumpBins& p, void* stream) {
    const int64_t coordinates = p.rows * p.size;
    if (coordinates == 0)
        return cudaSuccess;
    const Schedule schedule = schedule_of(p.bins, kGroup);
    return with_type(p.type, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = arithmetic_t<T>;
        const bool whole = p.bins % kGroup == 0 && is_aligned(p.masses);
        return launch(whole ? land<true, T> : land<false, T>, schedule.blocks(coordinates), kThreads, 0,
                      static_cast<cudaStream_t>(stream), p, schedule, static_cast<A>(p.low),
                      static_cast<A>((p.high - p.low) / static_cast<double>(p.bins)));
    });
}

} // namespace pfk::cuda
