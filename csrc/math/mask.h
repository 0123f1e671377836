// Which elements a coupling transforms, and where their parameters lie: index arithmetic instead of gathers or masks.
//
// An event is (channels, inner), row-major; a checkerboard event is (channels, height, width) with inner = height *
// width. The transformed elements of one row come as `runs`: equally long stretches with one step in x and one in
// params.
#pragma once

#include "host_device.h"

namespace pfk {

// A swapped mask is the plain one with the parts exchanged; its code is one higher. The Python codes are the same.
enum class Mask : int {
    All = 0,
    Half = 2,
    HalfSwapped = 3,
    Alternating = 4,
    AlternatingSwapped = 5,
    Checkerboard = 6,
    CheckerboardSwapped = 7
};

struct Event {
    int64_t channels, inner, width; // width: of a checkerboard's rows, else 1
    Mask mask;
    bool interleaved; // params lie channel by channel, (raw, t) (raw, t), instead of all raw, then all t
    int64_t params;   // of each element: 1 additive (t), 2 affine (raw, t), more for splines
};

// Params of neighbouring channels lie this many channels apart.
PFK_HD int64_t group_of(const Event& e) { return e.interleaved ? e.params : 1; }

PFK_HD bool is_checkerboard(Mask m) { return static_cast<int>(m) >= static_cast<int>(Mask::Checkerboard); }

// How many channels the params describe.
PFK_HD int64_t moved_channels(const Event& e) {
    switch (e.mask) {
    case Mask::Half:
        return e.channels - e.channels / 2;
    case Mask::HalfSwapped:
        return e.channels / 2;
    case Mask::Alternating:
        return e.channels / 2;
    case Mask::AlternatingSwapped:
        return e.channels - e.channels / 2;
    default:
        return e.channels;
    }
}

// How many elements of one event are transformed.
PFK_HD int64_t moved_elements(const Event& e) {
    if (is_checkerboard(e.mask))
        return e.channels * ((e.inner + (e.mask == Mask::CheckerboardSwapped ? 1 : 0)) / 2);
    return moved_channels(e) * e.inner;
}

struct Runs {
    int64_t count, x_step, param_step;
    int64_t shift; // from one parameter of an element to its next: from a raw log-scale to its t
};

struct Run {
    int64_t x, param, length; // offsets of the first element and of its first parameter
};

PFK_HD Runs runs_of(const Event& e) {
    const int64_t moved = moved_channels(e);
    const int64_t shift = e.params == 1 ? 0 : (e.interleaved ? 1 : moved) * e.inner;
    const int64_t group = group_of(e);
    const bool alternating = e.mask == Mask::Alternating || e.mask == Mask::AlternatingSwapped;
    if (is_checkerboard(e.mask))
        return {e.channels * (e.inner / (e.width ? e.width : 1)), 2, 2, shift};
    if (e.inner == 1) // channels are neighbours: one run
        return {moved > 0, alternating ? 2 : 1, group, shift};
    if (alternating || group > 1)
        return {moved, 1, 1, shift};
    return {moved > 0, 1, 1, shift};
}

PFK_HD Run run_at(const Event& e, const Runs& runs, int64_t i) {
    const int64_t moved = moved_channels(e);
    const int64_t group = group_of(e);
    if (is_checkerboard(e.mask)) {
        const int64_t height = e.inner / e.width, channel = i / height, row = i % height;
        const int64_t first = (row + (e.mask == Mask::Checkerboard ? 1 : 0)) & 1;
        const int64_t in_channel = row * e.width + first;
        return {channel * e.inner + in_channel, group * channel * e.inner + in_channel, (e.width - first + 1) / 2};
    }
    const bool alternating = e.mask == Mask::Alternating || e.mask == Mask::AlternatingSwapped;
    const int64_t first = e.mask == Mask::Half ? e.channels / 2 : e.mask == Mask::Alternating ? 1 : 0;
    const int64_t x_channel = first + (alternating ? 2 * i : i);
    if (e.inner == 1)
        return {first, 0, moved};
    return {x_channel * e.inner, group * i * e.inner, runs.count == 1 ? moved * e.inner : e.inner};
}

} // namespace pfk
