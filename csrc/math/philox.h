// Random numbers by counter: Philox 4x32 with ten rounds (Salmon, Moraes, Dror, Shaw 2011), for every kernel that
// draws.
//
// A call is a pure function of key and counter, so numbers are the same on every machine, in any order, and are made
// again wherever they are needed. All kernels fill the 192 bits alike:
//   key    64 bits, a row's own, from torch's generator: a row's numbers do not depend on the rows beside it
//   block  64 bits, the place within the row, in blocks of as many numbers as the four words make
//   draw   32 bits, which of several draws for one place: the probe, the step
//   kind   32 bits, what the words become: `Random`; what a kernel draws beside these under the same key (a gate before
//          a choice) takes a number of its own from 256 on, so that no two draws share words
#pragma once

#include "elementary.h"

namespace pfk {

enum class Random : uint32_t { Sign, Normal, Uniform };
constexpr int kRandoms = 3;
constexpr uint32_t kJump = 256, kAlign = 257;    // kinds of what jump_step and align draw
constexpr int64_t kSigns = 128, kPerCounter = 4; // numbers that one counter serves: signs; of the other kinds

struct Words {
    uint32_t at[4];
};

PFK_HD Words philox(uint64_t key, uint64_t block, uint32_t draw, uint32_t kind) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    uint32_t a = static_cast<uint32_t>(block), b = static_cast<uint32_t>(block >> 32), c = draw, d = kind;
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = static_cast<uint64_t>(0xD2511F53u) * a, second = static_cast<uint64_t>(0xCD9E8D57u) * c;
        a = static_cast<uint32_t>(second >> 32) ^ b ^ k0;
        b = static_cast<uint32_t>(second);
        c = static_cast<uint32_t>(first >> 32) ^ d ^ k1;
        d = static_cast<uint32_t>(first);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{a, b, c, d}};
}

PFK_HD Words philox(uint64_t key, uint64_t block, uint32_t draw, Random kind) {
    return philox(key, block, draw, static_cast<uint32_t>(kind));
}

// Number i of a block of signs is that of bit i % 32 of word i / 32: set is +1.
template <class A> PFK_HD A sign_of(uint32_t word, int bit) { return (word >> bit) & 1u ? A(1) : A(-1); }

// A number of (0, 1], the middle of one of 2^32 intervals, rounded; in float the largest 128 words round to 1.
template <class A> PFK_HD A uniform_of(uint32_t word) {
    return (static_cast<A>(word) + A(0.5)) * A(2.3283064365386963e-10); // 2^-32
}

// Two normal numbers of two words (Box and Muller 1958): a radius, and a quarter of the circle plus an angle within it.
template <class A> struct Normals {
    A first, second;
};
template <class A> PFK_HD Normals<A> normals_of(uint32_t w, uint32_t v) {
    const A unit = (A(static_cast<int32_t>(w >> 1)) + A(0.5)) * A(4.656612873077393e-10); // 2^-31
    const A radius = detail::root_of(A(-2) * log_normal(unit));
    const A angle = A(static_cast<int32_t>(v & 0x3fffffffu) - 0x20000000) * A(1.4629180792671596e-9); // pi 2^-31
    const SinCos<A> f = sin_cos_of(static_cast<typename detail::Real<A>::Int>(v >> 30), angle);
    return {radius * f.cos, radius * f.sin};
}

} // namespace pfk
