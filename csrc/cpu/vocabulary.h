// Logits over a vocabulary, a chunk at a time: read with the types of memory and arithmetic, a few entries replaced.
#pragma once

#include "../math/softmax.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kChunk = 1024; // logits that are staged at a time: their sums and exponentials stay in L1
constexpr int64_t kFew = 64;     // logits up to which tokens, not logits, lie along the lanes

template <class A> constexpr A kNever = -static_cast<A>(__builtin_inf());

constexpr int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Asks for numbers that will be read soon, where their order would be no guide to it.
template <class T> void prefetch(const T* from, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(from + i);
}

// Lane by lane the largest of n numbers, a multiple of kLanes, that of numbers alone where there is NaN.
template <class A> void maxima(const A* e, int64_t n, A* lanes) {
    using Part = typename RegisterOf<A>::Type;
    constexpr int64_t width = RegisterOf<A>::lanes, parts = kLanes / width;
    Part most[parts];
    for (int64_t p = 0; p < parts; ++p)
        most[p] = Part{} + kNever<A>;
    for (int64_t i = 0; i < n; i += kLanes)
        for (int64_t p = 0; p < parts; ++p) {
            const Part here = *reinterpret_cast<const Part*>(e + i + p * width);
            most[p] = here > most[p] ? here : most[p];
        }
    __builtin_memcpy(lanes, most, sizeof(most));
}

// The largest of all.
template <class A> A maximum(const A* e, int64_t n) {
    A lane[kLanes], of[4] = {kNever<A>, kNever<A>, kNever<A>, kNever<A>}; // four, which do not wait for each other
    maxima(e, n, lane);
    for (int64_t l = 0; l < kLanes; ++l)
        of[l % 4] = lane[l] > of[l % 4] ? lane[l] : of[l % 4];
    const A one = of[1] > of[0] ? of[1] : of[0], other = of[3] > of[2] ? of[3] : of[2];
    return other > one ? other : one;
}

// to = exp((e - shift) inverse) for n numbers of at most `shift`, a multiple of kLanes; their sums lane by lane.
template <class A> void exponentiate(const A* e, int64_t n, A shift, A inverse, A* to, A* lanes) {
    A sums[kLanes] = {};
    for (int64_t i = 0; i < n; i += kLanes)
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l)
            sums[l] += to[i + l] = exp_falling((e[i + l] - shift) * inverse);
    __builtin_memcpy(lanes, sums, sizeof(sums));
}

// Lane by lane the sum of exp(e - shift).
template <class A> void sum_exponentials(const A* e, int64_t n, A shift, A* lanes) {
    A sums[kLanes] = {};
    for (int64_t i = 0; i < n; i += kLanes)
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l)
            sums[l] += exp_falling(e[i + l] - shift);
    __builtin_memcpy(lanes, sums, sizeof(sums));
}

// One entry that is not what stands in memory.
template <class A> struct Patch {
    int64_t at;
    A value;
};

// Logits first to first + n of a token, padded to whole groups of lanes by -infinity: in `room`, or where they lie if
// they can be taken as they are.
template <class T, class A, int Patches>
const A* staged(const T* logits, int64_t first, int64_t n, const Patch<A> (&patches)[Patches], A* room) {
    bool as_it_is = sizeof(T) == sizeof(A) && n % kLanes == 0;
    for (const Patch<A>& patch : patches)
        as_it_is = as_it_is && (patch.at < first || patch.at >= first + n);
    if (as_it_is)
        return reinterpret_cast<const A*>(logits + first); // T is A
    gather(logits + first, 1, room, n);
    for (int64_t i = n; i < padded(n); ++i)
        room[i] = kNever<A>;
    for (const Patch<A>& patch : patches)
        if (patch.at >= first && patch.at < first + n)
            room[patch.at - first] = patch.value;
    return room;
}

// What to subtract from scores before the exponential: their maximum, but nothing where there is none.
template <class A> A level(A most) { return most == kNever<A> ? A(0) : most; }

} // namespace
} // namespace pfk::cpu
