// random_numbers on the CPU. Compiled once per instruction set.

#include "../math/random_numbers.h"
#include "random_numbers.h"

namespace pfk::cpu {
namespace {

template <class A> void draw_rows(const RandomNumbers& p, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        A* out = static_cast<A*>(p.out) + row * p.draws * p.size;
        for_random_stretches<A>(p.kind, p.keys[row], p.draws, p.size,
                                [&](int64_t place, const A* e, int64_t n) { scatter(e, out + place, 1, n); });
    }
}

} // namespace

namespace PFK_ISA {

void random_numbers(const RandomNumbers& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? draw_rows<double>(p, begin, end) : draw_rows<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
