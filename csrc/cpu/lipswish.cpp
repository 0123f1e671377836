// lipswish on the CPU: one pass over memory each way. The gradient of beta is a sum by rows, then over the rows in
// their order.

#include "../math/lipswish.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

template <class A> void forward(const LipSwish& p, int64_t begin, int64_t end) {
    const A beta = *static_cast<const A*>(p.beta);
    for (int64_t row = begin; row < end; ++row) {
        const A* const x = static_cast<const A*>(p.x) + row * p.x_stride;
        A *const value = static_cast<A*>(p.value) + row * p.size, *const slope =
                                                                      static_cast<A*>(p.slope) + row * p.size;
#pragma omp simd
        for (int64_t j = 0; j < p.size; ++j) {
            const LipSwishAt<A> at = lipswish_at(x[j], beta);
            value[j] = at.value, slope[j] = at.slope;
        }
    }
}

template <class A> void backward(const LipSwish& p, int64_t begin, int64_t end) {
    const A beta = *static_cast<const A*>(p.beta);
    for (int64_t row = begin; row < end; ++row) {
        const A* const x = static_cast<const A*>(p.x) + row * p.x_stride;
        const A* const dvalue = static_cast<const A*>(p.dvalue) + row * p.dvalue_stride;
        const A* const dslope = static_cast<const A*>(p.dslope) + row * p.dslope_stride;
        A* const dx = static_cast<A*>(p.dx) + row * p.size;
        RowSum<A> sum;
        for (int64_t first = 0; first < p.size; first += kTile) {
            const int64_t n = p.size - first < kTile ? p.size - first : kTile;
            alignas(64) A parts[kTile];
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) {
                const LipSwishGradient<A> at =
                    lipswish_gradient(x[first + j], beta, dvalue[first + j], dslope[first + j]);
                dx[first + j] = at.dx, parts[j] = at.dbeta;
            }
            sum.add(parts, n);
        }
        static_cast<A*>(p.partial)[row] = sum.total();
    }
}

template <class A> void total(const LipSwish& p) {
    double sum = 0;
    for (int64_t row = 0; row < p.samples; ++row)
        sum += static_cast<double>(static_cast<const A*>(p.partial)[row]);
    *static_cast<A*>(p.dbeta) = static_cast<A>(sum);
}

} // namespace

namespace PFK_ISA {

void lipswish(const LipSwish& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

void lipswish_backward(const LipSwish& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

void lipswish_total(const LipSwish& p, int64_t, int64_t) { p.type == DType::F64 ? total<double>(p) : total<float>(p); }

} // namespace PFK_ISA
} // namespace pfk::cpu
