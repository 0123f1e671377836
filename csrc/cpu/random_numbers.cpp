// random_numbers on the CPU. Compiled once per instruction set.

#include "../math/random_numbers.h"
#include "random_numbers.h"

namespace pfk::cpu {
namespace {

template <class A> void draw_rows(const RandomNumbers& p, int64_t begin, int64_t end) {
    A* const out = static_cast<A*>(p.out);
    const int64_t width = p.draws * p.size;
    if (p.kind != Random::Sign && width == p.size && p.size <= kPerCounter)
        return for_shortest_rows<A>(p.kind, p.keys, begin, end, [&](int64_t row, int64_t rows, const A* e) {
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < p.size; ++j)
                    out[(row + i) * p.size + j] = e[i * kPerCounter + j];
        });
    if (p.kind != Random::Sign)
        return for_random_rows<A>(
            p.kind, p.keys, begin, end, p.draws, p.size,
            [&](int64_t row, int64_t place, const A* e, int64_t n) { scatter(e, out + row * width + place, 1, n); });
    for (int64_t row = begin; row < end; ++row)
        for_random_stretches<A>(p.kind, p.keys[row], p.draws, p.size, [&](int64_t place, const A* e, int64_t n) {
            scatter(e, out + row * width + place, 1, n);
        });
}

} // namespace

namespace PFK_ISA {

void random_numbers(const RandomNumbers& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? draw_rows<double>(p, begin, end) : draw_rows<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
