// hutchinson on the CPU: a row after the other, a stretch of a probe at a time. Compiled once per instruction set.

#include "../math/hutchinson.h"
#include "random_numbers.h"

namespace pfk::cpu {
namespace {

template <class T, class A> void reduce_row(const Hutchinson& p, int64_t row) {
    const T* images = static_cast<const T*>(p.images) + row * p.images_stride;
    RowSum<A> divergence, square;
    for_random_stretches<A>(p.noise, p.keys[row], p.probes, p.size, [&](int64_t place, const A* e, int64_t n) {
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
    for_random_stretches<A>(p.noise, p.keys[row], p.probes, p.size, [&](int64_t place, const A* e, int64_t n) {
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

} // namespace PFK_ISA
} // namespace pfk::cpu
