// The masks of mask.h read the other way round: from an element of x to its parameters. GPU threads each own some
// elements and ask; CPU loops walk the runs. Both must agree (tests/cuda/test_places.py).
#pragma once

#include "divider.h"
#include "mask.h"

namespace pfk {

// Where a unit, n neighbouring elements of a row of x, stands. The raw log-scales of its elements are neighbours too.
template <class Index> struct Place {
    bool even, odd;  // are its even elements transformed, its odd ones?
    bool has_params; // also true for the identity positions of a checkerboard
    Index param;     // of the raw log-scale of its first element, in units; t lies shift_of(event) further
};

template <class Index> struct Places {
    Divider<Index> inner, width;
    Index first, count, group; // first transformed channel, how many there are, params side by side of each
    uint32_t alternate;        // 1 if they are every other one
    bool board, swapped;

    PFK_HD_MEMBER Place<Index> at(Index unit, int n) const {
        const Index channel = inner.divide(unit), rest = unit - channel * inner.divisor;
        const Index distance = channel - first, index = distance >> alternate; // unsigned: huge before the first
        const Index param = group * index * inner.divisor + rest;
        if (board) {
            const Index row = width.divide(rest), column = (rest - row * width.divisor) * static_cast<Index>(n);
            const bool even = ((row + column) & 1) != static_cast<Index>(swapped);
            return {even, !even, true, param};
        }
        const bool moved = (distance & alternate) == 0 && index < count;
        return {moved, moved, moved, param};
    }
};

template <class Index> PFK_HD Places<Index> places_of(const Event& e) {
    const bool alternating = e.mask == Mask::Alternating || e.mask == Mask::AlternatingSwapped;
    const int64_t first = e.mask == Mask::Half ? e.channels / 2 : e.mask == Mask::Alternating ? 1 : 0;
    return {Divider<Index>::by(e.inner),     Divider<Index>::by(e.width),
            static_cast<Index>(first),       static_cast<Index>(moved_channels(e)),
            static_cast<Index>(group_of(e)), alternating ? 1u : 0u,
            is_checkerboard(e.mask),         e.mask == Mask::CheckerboardSwapped};
}

// From one parameter of an element to its next, in elements or units as the event is.
PFK_HD int64_t shift_of(const Event& e) {
    return e.params == 1 ? 0 : (e.interleaved ? 1 : moved_channels(e)) * e.inner;
}

// Rewrites the event in units of n elements (a power of two above 1); false, and nothing written, where a unit would
// hold both parts, or raw log-scales beside shifts.
PFK_HD bool in_units(Event& e, int64_t n) {
    const bool pairs = group_of(e) > 1;
    const bool alternating = e.mask == Mask::Alternating || e.mask == Mask::AlternatingSwapped;
    Event units = e;
    if (is_checkerboard(e.mask)) {
        if (e.width % n != 0)
            return false;
        units.width = e.width / n;
    } else if (!pairs && e.mask == Mask::All) { // channels that follow each other are one
        units.channels = 1;
        units.inner = e.channels * e.inner;
    } else if (!pairs && !alternating && e.channels % 2 == 0) {
        units.channels = 2;
        units.inner = e.channels / 2 * e.inner;
    }
    if (units.inner % n != 0)
        return false;
    units.inner /= n;
    e = units;
    return true;
}

} // namespace pfk
