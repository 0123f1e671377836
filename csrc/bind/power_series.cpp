// power_series: checks, allocation, and its launches one after the other.

#include "../math/power_series.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "power_series";

PowerSeries problem_of(const Tensor& probe, const Tensors& slopes, const Tensors& weights, const Indices& reached,
                       int64_t terms, int64_t exact_terms, double survival) {
    const int factors = weights.count;
    if (factors < 2 || factors > kMostFactors || slopes.count != factors - 1)
        refuse<std::invalid_argument>(kOp, ": expected 2 to ", kMostFactors, " weights and one slope less; got ",
                                      factors, " and ", slopes.count);
    if (probe.dtype != accumulator(probe.dtype))
        refuse<TypeError>(kOp, ": probe must be float32 or float64; got ", name(probe.dtype));
    if (probe.ndim != 2 || probe.shape[1] < 1)
        refuse<std::invalid_argument>(kOp, ": probe must be (B, D); got ", shape_text(probe));
    if (terms < 0 || exact_terms < 1 || !(survival > 0 && survival <= 1))
        refuse<std::invalid_argument>(kOp, ": expected terms >= 0, exact_terms >= 1 and 0 < survival <= 1; got ", terms,
                                      ", ", exact_terms, " and ", survival);
    PowerSeries p{};
    p.type = probe.dtype;
    p.factors = factors;
    p.samples = probe.rows();
    p.probe = probe.data, p.probe_stride = probe.row_stride;
    const auto require = [&](const Tensor& t, const std::string& what, int64_t rows, int64_t columns) {
        require_dtype(kOp, t, what.c_str(), probe.dtype);
        require_same_device(kOp, probe, "probe", t, what.c_str());
        const int64_t shape[] = {rows, columns};
        if (t.ndim != 2 || t.shape[0] != rows || t.shape[1] != columns)
            refuse<std::invalid_argument>(kOp, ": ", what, " must be ", shape_text(shape, 2), "; got ", shape_text(t));
    };
    p.widths[0] = probe.shape[1];
    for (int l = 0; l < factors; ++l) {
        const Tensor& weight = weights[l];
        const bool last = l + 1 == factors;
        p.widths[l + 1] = last ? p.widths[0] : weight.ndim > 0 && weight.shape[0] > 0 ? weight.shape[0] : 1;
        require(weight, "weight " + std::to_string(l), p.widths[l + 1], p.widths[l]);
        p.weights[l] = weight.data, p.weight_strides[l] = weight.row_stride;
        if (last)
            break;
        require(slopes[l], "slope " + std::to_string(l), p.samples, p.widths[l + 1]);
        p.slopes[l] = slopes[l].data, p.slope_strides[l] = slopes[l].row_stride;
    }
    if (!(reached.device == probe.device))
        refuse<std::invalid_argument>(kOp, ": probe and reached must be on one device; got ", name(probe.device),
                                      " and ", name(reached.device));
    if (reached.ndim != 1 || reached.shape[0] != p.samples)
        refuse<std::invalid_argument>(kOp, ": reached must be (", p.samples, ",); got ",
                                      shape_text(reached.shape, reached.ndim));
    p.reached = reached.data;
    p.terms = terms, p.exact_terms = exact_terms, p.survival = survival;
    return p;
}

#ifdef PFK_BACKEND_CPU

// Samples by the terms they have, most first: counted, in as many places as the largest number of terms asks for.
std::vector<int64_t> order_of(const PowerSeries& p) {
    const auto terms_of = [&](int64_t sample) {
        const int64_t n = p.reached[sample];
        return n < 0 ? 0 : n > p.terms ? p.terms : n;
    };
    int64_t most = 0;
    for (int64_t i = 0; i < p.samples; ++i)
        most = terms_of(i) > most ? terms_of(i) : most;
    if (most > kMostTerms)
        refuse<std::invalid_argument>(kOp, ": a row may reach ", kMostTerms, " terms; got ", most);
    std::vector<int64_t> next(most + 2), order(p.samples);
    for (int64_t i = 0; i < p.samples; ++i)
        ++next[most - terms_of(i) + 1];
    for (int64_t k = 1; k <= most; ++k)
        next[k] += next[k - 1];
    for (int64_t i = 0; i < p.samples; ++i)
        order[next[most - terms_of(i)]++] = i;
    return order;
}

void run(Frame& frame, const Tensor& probe, PowerSeries& p) {
    const std::vector<int64_t> order = order_of(p);
    const int64_t tiles = (p.samples + kPowerSeriesTile - 1) / kPowerSeriesTile, panels = power_series_panels(p);
    const int64_t chunks = tiles < kPowerSeriesChunks ? tiles : kPowerSeriesChunks;
    const int64_t size = panels + chunks * power_series_space(p);
    p.order = order.data();
    p.panels = frame.empty(&size, 1, probe.dtype, probe.device).data;
    p.space = static_cast<char*>(p.panels) + panels * (p.type == DType::F64 ? 8 : 4);
    p.rows = p.factors;
    PFK_LAUNCH(frame, probe.device, power_series_pack, p, panels / p.factors);
    p.rows = chunks;
    PFK_LAUNCH(frame, probe.device, power_series, p, kPowerSeriesTile * panels / 8);
}

#else // whose kernel takes matrices and samples as they are

void run(Frame& frame, const Tensor& probe, PowerSeries& p) {
    const int64_t size = PFK_SCRATCH(power_series, p);
    p.space = frame.empty(&size, 1, probe.dtype, probe.device).data;
    PFK_LAUNCH(frame, probe.device, power_series, p, 0);
}

#endif

Outputs<2> power_series(Frame& frame, const Tensor& probe, const Tensors& slopes, const Tensors& weights,
                        const Indices& reached, int64_t terms, int64_t exact_terms, double survival) {
    PowerSeries p = problem_of(probe, slopes, weights, reached, terms, exact_terms, survival);
    const Tensor value = frame.empty(probe.shape, 1, probe.dtype, probe.device), v = frame.empty_like(probe);
    p.value = value.data, p.v = v.data;
    run(frame, probe, p);
    return {value, v};
}

} // namespace

void expose_power_series(Module& module) { module.add<power_series>("power_series"); }

} // namespace pfk::bind
