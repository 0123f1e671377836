// power_series on the CPU: tiles of samples stay in cache through all terms and factors. Samples come in the order of
// their terms, most first, so that those of a tile which have no more are at its end and are left out.

#include "../math/power_series.h"
#include "panels.h"

namespace pfk::cpu {
namespace {

template <class A> A* panels(const PowerSeries& p, int factor) {
    A* at = static_cast<A*>(p.panels);
    for (int l = 0; l < factor; ++l)
        at += p.widths[l + 1] * power_series_padded(p.widths[l]);
    return at;
}

// to += factor * from, (rows, n)
template <class A> void add_rows(A factor, const A* from, A* to, int64_t ld, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
        for (int64_t j = 0; j < n; ++j)
            to[r * ld + j] += factor * from[r * ld + j];
    }
}

// w (rows, size) = J^T w
template <class A> void apply(const PowerSeries& p, const int64_t* order, int64_t rows, A* w, int64_t ld, A* hidden) {
    const int64_t ld_hidden = power_series_step(power_series_hidden(p));
    const A* in = w;
    int64_t ld_in = ld;
    for (int l = p.factors - 1; l > 0; --l) {
        A* const out = hidden + l % 2 * kPowerSeriesTile * ld_hidden;
        const int64_t width = p.widths[l], stride = p.slope_strides[l - 1];
        const A* const slopes = static_cast<const A*>(p.slopes[l - 1]);
        const auto times_slopes = [&](int64_t row, int64_t first, A* to, int64_t n) {
            const A* const slope = slopes + order[row] * stride + first;
            n = first + n <= width ? n : width - first;
#pragma omp simd
            for (int64_t j = 0; j < n; ++j)
                to[j] *= slope[j];
        };
        multiply_panels<false>(Rows<A>{in, ld_in}, p.widths[l + 1], panels<A>(p, l), width, out, ld_hidden, rows,
                               times_slopes);
        in = out, ld_in = ld_hidden;
    }
    multiply_panels<false>(Rows<A>{in, ld_in}, p.widths[1], panels<A>(p, 0), p.widths[0], w, ld, rows);
}

template <class A> void run_tile(const PowerSeries& p, const int64_t* order, int64_t rows, A* space) {
    const int64_t size = p.widths[0], ld = power_series_step(size), whole = kPowerSeriesTile * ld;
    A *const w = space, *const v = w + whole, *const sum = v + whole, *const hidden = sum + whole;
    const A* const probe = static_cast<const A*>(p.probe);
    for (int64_t i = 0; i < 2 * whole; ++i)
        v[i] = A(0); // and `sum`
    for (int64_t r = 0; r < rows; ++r)
        copy(probe + order[r] * p.probe_stride, w + r * ld, size);
    double coefficient = 1;
    int64_t active = rows;
    for (int64_t k = 1; k <= p.terms; ++k) {
        while (active > 0 && p.reached[order[active - 1]] < k)
            --active;
        if (active == 0)
            break;
        coefficient = (k > 1 ? -coefficient : coefficient) / (k > p.exact_terms ? p.survival : 1);
        add_rows(static_cast<A>(coefficient), w, v, ld, active, size);
        apply(p, order, active, w, ld, hidden);
        add_rows(static_cast<A>(coefficient / static_cast<double>(k)), w, sum, ld, active, size);
    }
    for (int64_t r = 0; r < rows; ++r) {
        const A* const e = probe + order[r] * p.probe_stride;
        A* const row = sum + r * ld;
#pragma omp simd
        for (int64_t j = 0; j < size; ++j)
            row[j] *= e[j];
        RowSum<A> total;
        total.add(row, size);
        static_cast<A*>(p.value)[order[r]] = total.total();
        copy(v + r * ld, static_cast<A*>(p.v) + order[r] * size, size);
    }
}

template <class A> void run(const PowerSeries& p, int64_t begin, int64_t end) {
    A* const space = static_cast<A*>(p.space) + begin * power_series_space(p); // of all chunks that this thread takes
    for (int64_t chunk = begin; chunk < end; ++chunk)
        for (int64_t first = chunk * kPowerSeriesTile; first < p.samples; first += p.rows * kPowerSeriesTile) {
            const int64_t left = p.samples - first;
            run_tile(p, p.order + first, left < kPowerSeriesTile ? left : kPowerSeriesTile, space);
        }
}

template <class A> void pack(const PowerSeries& p, int64_t begin, int64_t end) {
    for (int l = static_cast<int>(begin); l < end; ++l)
        pack_panels(static_cast<const A*>(p.weights[l]), p.weight_strides[l], 1, p.widths[l + 1], p.widths[l],
                    panels<A>(p, l));
}

} // namespace

namespace PFK_ISA {

void power_series_pack(const PowerSeries& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? pack<double>(p, begin, end) : pack<float>(p, begin, end);
}

void power_series(const PowerSeries& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? run<double>(p, begin, end) : run<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
