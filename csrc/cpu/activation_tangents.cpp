// activation_tangents on the CPU: a stretch of a row, whose slopes serve all its tangents. Compiled once per
// instruction set.

#include "../math/activation_tangents.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

template <class T, class A, class At> void forward(const ActivationTangents& p, int64_t begin, int64_t end, At at) {
    alignas(64) A slope[kTile];
    for (int64_t row = begin; row < end; ++row)
        for (int64_t first = 0; first < p.size; first += kTile) {
            const int64_t n = p.size - first < kTile ? p.size - first : kTile;
            const T* const x = static_cast<const T*>(p.x) + row * p.x_stride + first;
            T* const y = static_cast<T*>(p.y) + row * p.size + first;
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const SmoothAt<A> found = at(load<A>(x[i]));
                store(y[i], found.value);
                slope[i] = found.slope;
            }
            for (int64_t k = 0; k < p.tangents; ++k) {
                const T* const v = static_cast<const T*>(p.v) + row * p.v_stride + k * p.size + first;
                T* const vy = static_cast<T*>(p.vy) + (row * p.tangents + k) * p.size + first;
#pragma omp simd
                for (int64_t i = 0; i < n; ++i)
                    store(vy[i], slope[i] * load<A>(v[i]));
            }
        }
}

template <class T, class A, class At> void backward(const ActivationTangents& p, int64_t begin, int64_t end, At at) {
    alignas(64) A slope[kTile], sum[kTile];
    for (int64_t row = begin; row < end; ++row)
        for (int64_t first = 0; first < p.size; first += kTile) {
            const int64_t n = p.size - first < kTile ? p.size - first : kTile;
            const T* const x = static_cast<const T*>(p.x) + row * p.x_stride + first;
            const T* const gy = static_cast<const T*>(p.gy) + row * p.gy_stride + first;
            T* const gx = static_cast<T*>(p.y) + row * p.size + first;
            alignas(64) A bend[kTile];
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const SmoothAt<A> found = at(load<A>(x[i]));
                slope[i] = found.slope, bend[i] = found.bend, sum[i] = A(0);
            }
            for (int64_t k = 0; k < p.tangents; ++k) {
                const T* const v = static_cast<const T*>(p.v) + row * p.v_stride + k * p.size + first;
                const T* const g = static_cast<const T*>(p.gvy) + row * p.gvy_stride + k * p.size + first;
                T* const gv = static_cast<T*>(p.vy) + (row * p.tangents + k) * p.size + first;
#pragma omp simd
                for (int64_t i = 0; i < n; ++i) {
                    sum[i] += load<A>(g[i]) * load<A>(v[i]);
                    store(gv[i], slope[i] * load<A>(g[i]));
                }
            }
#pragma omp simd
            for (int64_t i = 0; i < n; ++i)
                store(gx[i], slope[i] * load<A>(gy[i]) + bend[i] * sum[i]);
        }
}

} // namespace

namespace PFK_ISA {

void activation_tangents(const ActivationTangents& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto t, auto a) {
        using T = decltype(t);
        using A = decltype(a);
        if (p.kind == Smooth::Silu)
            forward<T, A>(p, begin, end, [](A x) { return silu_at(x); });
        else
            forward<T, A>(p, begin, end, [](A x) { return gelu_tanh_at(x); });
    });
}

void activation_tangents_backward(const ActivationTangents& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto t, auto a) {
        using T = decltype(t);
        using A = decltype(a);
        if (p.kind == Smooth::Silu)
            backward<T, A>(p, begin, end, [](A x) { return silu_at(x); });
        else
            backward<T, A>(p, begin, end, [](A x) { return gelu_tanh_at(x); });
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
