// hutchinson on the CPU: a row after the other, 128 dimensions of a probe at a time. Compiled once per instruction set.

#include "../math/hutchinson.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

static_assert(kSigns % kLanes == 0 && kSigns % kNormals == 0, "a block fills vectors");

template <class A> void directions(const Hutchinson& p, uint64_t key, int64_t block, uint32_t probe, A* e) {
    if (p.noise == Noise::Rademacher) {
        const Words words = philox(key, static_cast<uint64_t>(block), probe, p.noise);
        for (int w = 0; w < 4; ++w)
#pragma omp simd
            for (int bit = 0; bit < 32; ++bit)
                e[32 * w + bit] = sign_of<A>(words.at[w], bit);
        return;
    }
    constexpr int64_t counters = kSigns / kNormals;
    alignas(64) uint32_t words[4][counters];
    alignas(64) A normals[4][counters];
#pragma omp simd
    for (int64_t i = 0; i < counters; ++i) {
        const Words w = philox(key, static_cast<uint64_t>(block * counters + i), probe, p.noise);
        words[0][i] = w.at[0], words[1][i] = w.at[1], words[2][i] = w.at[2], words[3][i] = w.at[3];
    }
    for (int pair = 0; pair < 4; pair += 2)
#pragma omp simd
        for (int64_t i = 0; i < counters; ++i) {
            const Normals<A> n = normals_of<A>(words[pair][i], words[pair + 1][i]);
            normals[pair][i] = n.first, normals[pair + 1][i] = n.second;
        }
    for (int64_t i = 0; i < kSigns; ++i)
        e[i] = normals[i % 4][i / 4];
}

// Calls body(place of the stretch within the row, its directions, its length).
template <class A, class Body> void for_stretches(const Hutchinson& p, int64_t row, Body body) {
    alignas(64) A e[kSigns];
    for (int64_t probe = 0; probe < p.probes; ++probe)
        for (int64_t first = 0; first < p.size; first += kSigns) {
            directions(p, static_cast<uint64_t>(p.keys[row]), first / kSigns, static_cast<uint32_t>(probe), e);
            body(probe * p.size + first, e, p.size - first < kSigns ? p.size - first : kSigns);
        }
}

template <class T, class A> void reduce_row(const Hutchinson& p, int64_t row) {
    const T* images = static_cast<const T*>(p.images) + row * p.images_stride;
    RowSum<A> divergence, square;
    for_stretches<A>(p, row, [&](int64_t place, const A* e, int64_t n) {
        alignas(64) A image[kSigns], product[kSigns];
        gather(images + place, 1, image, n);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            product[i] = e[i] * image[i];
            image[i] *= image[i];
        }
        divergence.add(product, n);
        square.add(image, n);
    });
    static_cast<A*>(p.divergence)[row] = divergence.total() / A(p.probes);
    static_cast<A*>(p.square)[row] = square.total() / A(p.probes);
}

template <class T, class A> void differentiate_row(const Hutchinson& p, int64_t row) {
    const T* images = static_cast<const T*>(p.images) + row * p.images_stride;
    T* out = static_cast<T*>(p.out) + row * p.probes * p.size;
    const A divergence = static_cast<const A*>(p.ddivergence)[row * p.ddivergence_stride] / A(p.probes);
    const A square = A(2) * static_cast<const A*>(p.dsquare)[row * p.dsquare_stride] / A(p.probes);
    for_stretches<A>(p, row, [&](int64_t place, const A* e, int64_t n) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            store(out[place + i], divergence * e[i] + square * load<A>(images[place + i]));
    });
}

} // namespace

namespace PFK_ISA {

void hutchinson(const Hutchinson& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        for (int64_t row = begin; row < end; ++row)
            reduce_row<decltype(in_memory), decltype(arithmetic)>(p, row);
    });
}

void hutchinson_backward(const Hutchinson& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        for (int64_t row = begin; row < end; ++row)
            differentiate_row<decltype(in_memory), decltype(arithmetic)>(p, row);
    });
}

void hutchinson_directions(const Hutchinson& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        using A = decltype(arithmetic);
        using T = decltype(in_memory);
        for (int64_t row = begin; row < end; ++row) {
            T* out = static_cast<T*>(p.out) + row * p.probes * p.size;
            for_stretches<A>(p, row, [&](int64_t place, const A* e, int64_t n) { scatter(e, out + place, 1, n); });
        }
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
