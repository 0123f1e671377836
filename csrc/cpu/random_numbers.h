// A row's random numbers on the CPU, a stretch at a time: for every kernel that draws.
#pragma once

#include "../math/philox.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

static_assert(kSigns % kLanes == 0 && kSigns % kPerCounter == 0, "a stretch fills vectors");

// Stretch `stretch` of kSigns numbers of a row's draw.
template <class A> void random_stretch(Random kind, uint64_t key, int64_t stretch, uint32_t draw, A* e) {
    if (kind == Random::Sign) {
        const Words words = philox(key, static_cast<uint64_t>(stretch), draw, kind);
        for (int w = 0; w < 4; ++w)
#pragma omp simd
            for (int bit = 0; bit < 32; ++bit)
                e[32 * w + bit] = sign_of<A>(words.at[w], bit);
        return;
    }
    constexpr int64_t counters = kSigns / kPerCounter;
    alignas(64) uint32_t words[4][counters];
    alignas(64) A numbers[4][counters];
#pragma omp simd
    for (int64_t i = 0; i < counters; ++i) {
        const Words w = philox(key, static_cast<uint64_t>(stretch * counters + i), draw, kind);
        words[0][i] = w.at[0], words[1][i] = w.at[1], words[2][i] = w.at[2], words[3][i] = w.at[3];
    }
    for (int w = 0; w < 4 && kind == Random::Uniform; ++w)
#pragma omp simd
        for (int64_t i = 0; i < counters; ++i)
            numbers[w][i] = uniform_of<A>(words[w][i]);
    for (int pair = 0; pair < 4 && kind == Random::Normal; pair += 2)
#pragma omp simd
        for (int64_t i = 0; i < counters; ++i) {
            const Normals<A> n = normals_of<A>(words[pair][i], words[pair + 1][i]);
            numbers[pair][i] = n.first, numbers[pair + 1][i] = n.second;
        }
    for (int64_t i = 0; i < kSigns; ++i)
        e[i] = numbers[i % 4][i / 4];
}

// Calls body(place of the stretch within the row (draws, size), its numbers, how many of them there are).
template <class A, class Body>
void for_random_stretches(Random kind, int64_t key, int64_t draws, int64_t size, Body body) {
    alignas(64) A e[kSigns];
    for (int64_t draw = 0; draw < draws; ++draw)
        for (int64_t first = 0; first < size; first += kSigns) {
            random_stretch(kind, static_cast<uint64_t>(key), first / kSigns, static_cast<uint32_t>(draw), e);
            body(draw * size + first, e, size - first < kSigns ? size - first : kSigns);
        }
}

} // namespace
} // namespace pfk::cpu
