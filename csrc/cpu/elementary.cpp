// The elementary functions over an array. Compiled once per instruction set.

#include "elementary.h"
#include "../math/elementary.h"

namespace pfk::cpu {
namespace {

template <class A> void apply(const Elementary& p, int64_t begin, int64_t end) {
    const A* x = static_cast<const A*>(p.x);
    A* y = static_cast<A*>(p.y);
#define PFK_LOOP(f)                                                                                                    \
    _Pragma("omp simd") for (int64_t i = begin; i < end; ++i) y[i] = f(x[i]);                                          \
    break;
    switch (p.function) {
    case 0:
        PFK_LOOP(exp)
    case 1:
        PFK_LOOP(log)
    case 2:
        PFK_LOOP(tanh)
    case 3:
        PFK_LOOP(sigmoid)
    case 4:
        PFK_LOOP(sin)
    case 5:
        PFK_LOOP(cos)
    }
#undef PFK_LOOP
}

} // namespace

namespace PFK_ISA {

void elementary(const Elementary& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? apply<double>(p, begin, end) : apply<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
