// power_series on the GPU: a block takes panels of 32 samples through all factors and terms, until the last of its
// samples has had its own, and waits for nobody but itself. Panels are (sample, unit), as the tensors are; slopes and
// coefficients meet a product's elements where they are made.

#include "../math/power_series.h"
#include "product.cuh"

namespace pfk::cuda {
namespace {

constexpr int64_t kBlocks = 264;   // two for each multiprocessor of an H100
constexpr int64_t P = 2 * kAcross; // samples of a panel
constexpr int64_t whole_tiles(int64_t units) { return (units + 63) / 64 * 64; } // of a product

int64_t panels_of(const PowerSeries& p) { return (p.samples + P - 1) / P; }
int64_t blocks_of(const PowerSeries& p) { return panels_of(p) < kBlocks ? panels_of(p) : kBlocks; }

// A call as the kernel gets it. A block's scratch: w and the sum that the value is made of, (P, ld); two hidden layers
// in turn, (P, ld_hidden).
template <class A> struct Call {
    PowerSeries p;
    int64_t panels, ld, ld_hidden, size;
    A growth; // from the coefficient of one term to that of the next
};

template <class A> Call<A> call_of(const PowerSeries& p) {
    const int64_t ld = whole_tiles(p.widths[0]), ld_hidden = whole_tiles(power_series_hidden(p));
    return {p, panels_of(p), ld, ld_hidden, 2 * P * (ld + ld_hidden), static_cast<A>(1 / p.survival)};
}

template <class A> PFK_DEVICE const A* as(const void* data) { return static_cast<const A*>(data); }

// One panel. All but these few numbers is read again from the call where it is needed: the products want the registers.
template <class A> struct Panel {
    const Call<A>& call;
    const PowerSeries& p;
    int64_t first; // sample
    int rows;

    PFK_DEVICE A* w() const { return static_cast<A*>(p.space) + blockIdx.x * call.size; }
    PFK_DEVICE A* sum() const { return w() + P * call.ld; }
    PFK_DEVICE A* hidden(int factor) const { return sum() + P * (call.ld + factor % 2 * call.ld_hidden); }
    PFK_DEVICE const A* probe(int64_t row) const { return as<A>(p.probe) + (first + row) * p.probe_stride; }
    PFK_DEVICE A* v(int64_t row) const { return static_cast<A*>(p.v) + (first + row) * p.widths[0]; }
    PFK_DEVICE int64_t terms(int64_t row) const {
        const int64_t n = p.reached[first + row];
        return n < p.terms ? n : p.terms;
    }
};

// What becomes of a product's elements: between two factors they meet the slopes; behind the last one they are w_k, and
// go into the sum and into v.
template <class A> struct Finish {
    const Panel<A>& panel;
    int factor;
    int64_t k;
    A of_sum, of_v; // the coefficients of w_k

    PFK_DEVICE void operator()(int64_t row, int64_t column, A a, A b) const {
        const PowerSeries& p = panel.p;
        if (factor > 0) {
            const A* const slope = as<A>(p.slopes[factor - 1]) + (panel.first + row) * p.slope_strides[factor - 1];
            a *= column < p.widths[factor] ? slope[column] : A(0);
            b *= column + 1 < p.widths[factor] ? slope[column + 1] : A(0);
            vstore<2>(panel.hidden(factor) + row * panel.call.ld_hidden + column, Vec<A, 2>{{a, b}});
            return;
        }
        const int64_t terms = panel.terms(row), at = row * panel.call.ld + column;
        vstore<2>(panel.w() + at, Vec<A, 2>{{a, b}});
        if (terms >= k) {
            A* const sum = panel.sum() + at;
            sum[0] += of_sum * a;
            sum[1] += of_sum * b;
        }
        A* const v = panel.v(row) + column;
        if (terms > k && column < p.widths[0])
            v[0] += of_v * a;
        if (terms > k && column + 1 < p.widths[0])
            v[1] += of_v * b;
    }
};

template <class A> PFK_DEVICE void run_panel(const Panel<A>& panel, Factors<A>& shared) {
    const PowerSeries& p = panel.p;
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
    const int64_t ld = panel.call.ld, size = p.widths[0];
    for (int row = warp; row < panel.rows; row += kWarps)
        for (int64_t j = lane; j < ld; j += warp_size) {
            panel.sum()[row * ld + j] = A(0);
            if (j < size)
                panel.v(row)[j] = panel.terms(row) > 0 ? panel.probe(row)[j] : A(0);
        }
    const int64_t most = block_reduce<kThreads>(lane < panel.rows ? panel.terms(lane) : int64_t(0), Larger());
    Factor<A> left = {panel.probe(0), p.probe_stride, 1};
    A coefficient = 1;
    for (int64_t k = 1; k <= most; ++k) {
        const A next = -(k < p.exact_terms ? coefficient : coefficient * panel.call.growth);
        for (int l = p.factors - 1; l >= 0; --l) {
            const Factor<A> weight = {as<A>(p.weights[l]), 1, p.weight_strides[l]};
            tiles<true, false, P / kAcross>(shared, left, panel.rows, weight, p.widths[l], p.widths[l + 1],
                                            Finish<A>{panel, l, k, coefficient / static_cast<A>(k), next});
            left = l > 0 ? Factor<A>{panel.hidden(l), panel.call.ld_hidden, 1} : Factor<A>{panel.w(), ld, 1};
        }
        coefficient = next;
    }
    __syncthreads(); // the sums are complete
    for (int row = warp; row < panel.rows; row += kWarps) {
        A value = 0;
        for (int64_t j = lane; j < size; j += warp_size)
            value += panel.sum()[row * ld + j] * panel.probe(row)[j];
        value = warp_reduce(value);
        if (lane == 0)
            static_cast<A*>(p.value)[panel.first + row] = value;
    }
}

// Doubles need the registers of two blocks.
template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == sizeof(double) ? 1 : 2) run(const Call<A> call) {
    PFK_SHARED(Factors<A>, shared);
    for (int64_t i = blockIdx.x; i < call.panels; i += gridDim.x) {
        const int64_t first = i * P, left = call.p.samples - first;
        run_panel(Panel<A>{call, call.p, first, static_cast<int>(left < P ? left : P)}, shared);
    }
}

} // namespace

int64_t power_series_scratch(const PowerSeries& p) { return blocks_of(p) * call_of<double>(p).size; }

Error power_series(const PowerSeries& p, void* stream) {
    if (p.samples == 0)
        return cudaSuccess;
    return with_arithmetic(p.type, [&](auto type) {
        using A = typename decltype(type)::type;
        return launch(run<A>, static_cast<unsigned>(blocks_of(p)), kThreads, 0, static_cast<cudaStream_t>(stream),
                      call_of<A>(p));
    });
}

} // namespace pfk::cuda
