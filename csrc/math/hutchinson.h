// Random directions by a counter-based generator, and the three passes over them that Hutchinson's estimate needs.
//
// Philox 4x32 with ten rounds (Salmon, Moraes, Dror, Shaw 2011): a sample's key, the number of a block of directions,
// the probe and the noise give four words, the same on every machine and in any order.
#pragma once

#include "elementary.h"
#include "kernel.h"

namespace pfk {

enum class Noise : int { Rademacher, Gaussian };
constexpr int64_t kSigns = 128, kNormals = 4; // dimensions that one counter serves

struct Words {
    uint32_t at[4];
};

PFK_HD Words philox(uint64_t key, uint64_t block, uint32_t probe, Noise noise) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    uint32_t a = static_cast<uint32_t>(block), b = static_cast<uint32_t>(block >> 32), c = probe;
    uint32_t d = static_cast<uint32_t>(noise);
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

// Dimension i of a block of signs is that of bit i % 32 of word i / 32: set is +1.
template <class A> PFK_HD A sign_of(uint32_t word, int bit) { return (word >> bit) & 1u ? A(1) : A(-1); }

// Two normal numbers of two words (Box and Muller 1958): a radius, and a quarter of the circle plus an angle within it.
template <class A> struct Normals {
    A first, second;
};
template <class A> PFK_HD Normals<A> normals_of(uint32_t w, uint32_t v) {
    const A unit = (A(static_cast<int32_t>(w >> 1)) + A(0.5)) * A(4.656612873077393e-10); // 2^-31
    const A radius = detail::root_of(A(-2) * log(unit));
    const A angle = A(static_cast<int32_t>(v & 0x3fffffffu) - 0x20000000) * A(1.4629180792671596e-9); // pi 2^-31
    const SinCos<A> f = sin_cos_of(static_cast<typename detail::Real<A>::Int>(v >> 30), angle);
    return {radius * f.cos, radius * f.sin};
}

// images (rows, probes, size): a field's Jacobian times its directions e, which are made again from the keys.
struct Hutchinson {
    DType type;
    int64_t rows, probes, size;
    Noise noise;
    const int64_t* keys;
    const void* images; // null in the call that writes the directions themselves
    int64_t images_stride;
    void *divergence, *square; // means over the probes of e . image and |image|^2

    const void *ddivergence, *dsquare; // backward
    int64_t ddivergence_stride, dsquare_stride;
    void* out; // dimages, or the directions
};

PFK_KERNEL(hutchinson, Hutchinson)
PFK_KERNEL(hutchinson_backward, Hutchinson)
PFK_KERNEL(hutchinson_directions, Hutchinson)

} // namespace pfk
