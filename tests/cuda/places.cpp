// The two readings of a mask against each other: what run_at lists, Places::at must say element by element.
#include "../../csrc/math/places.h"

#include <cstddef>
#include <vector>

namespace {

template <class Index> int64_t wrong(const pfk::Event& event, const pfk::Event& units, int n) {
    const int64_t size = event.channels * event.inner;
    std::vector<int64_t> raw(static_cast<std::size_t>(size), -1); // of each transformed element
    const pfk::Runs runs = pfk::runs_of(event);
    for (int64_t i = 0; i < runs.count; ++i) {
        const pfk::Run run = pfk::run_at(event, runs, i);
        for (int64_t k = 0; k < run.length; ++k)
            raw[static_cast<std::size_t>(run.x + k * runs.x_step)] = run.param + k * runs.param_step;
    }
    int64_t count = pfk::shift_of(event) != runs.shift || pfk::shift_of(units) * n != runs.shift;
    const auto places = pfk::places_of<Index>(units);
    for (int64_t unit = 0; unit < size / n; ++unit) {
        const auto place = places.at(static_cast<Index>(unit), n);
        for (int k = 0; k < n; ++k) {
            const int64_t expected = raw[static_cast<std::size_t>(unit * n + k)];
            const bool moved = k % 2 == 0 ? place.even : place.odd;
            count += moved != (expected >= 0) || (moved && !place.has_params);
            count += expected >= 0 && static_cast<int64_t>(place.param) * n + k != expected;
        }
    }
    return count;
}

} // namespace

extern "C" {

// Disagreements; -1 where the event has no units of n elements.
int64_t disagreements(int64_t channels, int64_t inner, int64_t width, int mask, int interleaved, int params, int n) {
    const pfk::Event event{channels, inner, width, static_cast<pfk::Mask>(mask), interleaved != 0, params};
    pfk::Event units = event;
    if (n > 1 && !pfk::in_units(units, n))
        return -1;
    return wrong<uint64_t>(event, units, n) + wrong<uint32_t>(event, units, n);
}

uint32_t quotient(uint32_t n, uint32_t divisor) { return pfk::Divider<uint32_t>::by(divisor).divide(n); }
}
