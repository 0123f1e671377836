// path_sample on the CPU: noise is mixed in as it is made, a vector's worth at a time. Compiled once per instruction
// set.

#include "../math/path_sample.h"
#include "random_numbers.h"

namespace pfk::cpu {
namespace {

template <class T> const T* at(const void* base, int64_t row, int64_t stride, int64_t place = 0) {
    return static_cast<const T*>(base) + row * stride + place;
}

// Elements `place` to place + n of a row; N is the noise's type, in memory or as it was drawn.
template <class T, class N, class A>
__attribute__((always_inline)) inline void mix(const PathSample& p, int64_t row, int64_t place, const N* noise,
                                               int64_t n) {
    const auto c = Coefficients<A>::of(p, row);
    const T* const x1 = at<T>(p.x1, row, p.x1_stride, place);
    T* const x_t = static_cast<T*>(p.x_t) + row * p.size + place;
    T* const target = static_cast<T*>(p.target) + row * p.size + place;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const A data = load<A>(x1[i]), e = load<A>(noise[i]);
        store(x_t[i], c.mixed(data, e));
        store(target[i], c.moved(data, e));
    }
}

// Rows of Size elements that lie side by side, Each of noise: a row is a lane.
template <int Size, int Each, class T, class N, class A>
void mix_shortest(const PathSample& p, int64_t row, const N* noise, int64_t rows) {
    alignas(64) A c[4][kCounters];
    for (int k = 0; k < 4; ++k)
        for (int64_t i = 0; i < rows; ++i)
            c[k][i] = at<A>(p.coefficients[k], row + i, p.coefficient_stride[k])[0];
    const T* const x1 = at<T>(p.x1, row, Size);
    T *const x_t = static_cast<T*>(p.x_t) + row * Size, *const target = static_cast<T*>(p.target) + row * Size;
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Size; ++j) {
            const Coefficients<A> of_row = {c[0][i], c[1][i], c[2][i], c[3][i]};
            const A data = load<A>(x1[Size * i + j]), e = load<A>(noise[Each * i + j]);
            store(x_t[Size * i + j], of_row.mixed(data, e));
            store(target[Size * i + j], of_row.moved(data, e));
        }
}

template <class T, class A, int Size = 1> bool sample_shortest_rows(const PathSample& p, int64_t begin, int64_t end) {
    if (p.size != Size) {
        if constexpr (Size < kPerCounter)
            return sample_shortest_rows<T, A, Size + 1>(p, begin, end);
        return false;
    }
    if (p.x1_stride != Size || (p.x0 != nullptr && p.x0_stride != Size))
        return false;
    if (p.x0 == nullptr)
        for_shortest_rows<A>(Random::Normal, p.keys, begin, end, [&](int64_t row, int64_t rows, const A* e) {
            mix_shortest<Size, kPerCounter, T, A, A>(p, row, e, rows);
        });
    else
        for (int64_t row = begin; row < end; row += kCounters)
            mix_shortest<Size, Size, T, T, A>(p, row, at<T>(p.x0, row, Size),
                                              end - row < kCounters ? end - row : kCounters);
    return true;
}

template <class T, class A> void sample_rows(const PathSample& p, int64_t begin, int64_t end) {
    if (sample_shortest_rows<T, A>(p, begin, end))
        return;
    if (p.x0 == nullptr)
        return for_random_rows<A>(
            Random::Normal, p.keys, begin, end, 1, p.size,
            [&](int64_t row, int64_t place, const A* e, int64_t n) { mix<T, A, A>(p, row, place, e, n); });
    for (int64_t row = begin; row < end; ++row)
        mix<T, T, A>(p, row, 0, at<T>(p.x0, row, p.x0_stride), p.size);
}

template <class T, class A> void differentiate_row(const PathSample& p, int64_t row) {
    const auto c = Coefficients<A>::of(p, row);
    const T *const x1 = at<T>(p.x1, row, p.x1_stride), *const x0 = at<T>(p.x0, row, p.x0_stride);
    const T* const dx_t = at<T>(p.dx_t, row, p.dx_t_stride);
    const T* const dtarget = at<T>(p.dtarget, row, p.dtarget_stride);
    T* const dx1 = static_cast<T*>(p.dx1) + row * p.size;
    T* const dx0 = static_cast<T*>(p.dx0) + (p.dx0 == nullptr ? 0 : row * p.size);
    RowSum<A> sums[4];
    for (int64_t first = 0; first < p.size; first += kSigns) {
        const int64_t n = p.size - first < kSigns ? p.size - first : kSigns;
        alignas(64) A e[kSigns], products[4][kSigns];
        if (p.x0 == nullptr)
            random_stretch(Random::Normal, static_cast<uint64_t>(p.keys[row]), first / kSigns, 0, e);
        else
            gather(x0 + first, 1, e, n);
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const A data = load<A>(x1[first + i]), moved = load<A>(dx_t[first + i]), rate = load<A>(dtarget[first + i]);
            products[0][i] = moved * data, products[1][i] = moved * e[i];
            products[2][i] = rate * data, products[3][i] = rate * e[i];
            store(dx1[first + i], c.of_data(moved, rate));
            if (dx0 != nullptr)
                store(dx0[first + i], c.of_noise(moved, rate));
        }
        for (int k = 0; k < 4; ++k)
            sums[k].add(products[k], n);
    }
    for (int k = 0; k < 4; ++k)
        static_cast<A*>(p.dcoefficients[k])[row] = sums[k].total();
}

} // namespace

namespace PFK_ISA {

void path_sample(const PathSample& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        sample_rows<decltype(in_memory), decltype(arithmetic)>(p, begin, end);
    });
}

void path_sample_backward(const PathSample& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        for (int64_t row = begin; row < end; ++row)
            differentiate_row<decltype(in_memory), decltype(arithmetic)>(p, row);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
