// jump_bins: checks, allocation, launch.

#include "../math/jump_bins.h"
#include "function.h"
#include "launch.h"

#include <cmath>
#include <vector>

namespace pfk::bind {
namespace {

constexpr const char* kOp = "jump_bins";
constexpr int64_t kCost = 4;       // of a bin, in those of a copy
constexpr int64_t kMost = 1 << 24; // bins, all of which float32 can count

Outputs<2> jump_bins(Frame& frame, const Tensor& x0, const Tensor& x1, const Tensor& t, double low, double high,
                     int64_t bins) {
    if (x0.ndim < 1)
        refuse<std::invalid_argument>(kOp, ": x0 must be (B, *event); got ", shape_text(x0));
    require_same_shape(kOp, x0, "x0", x1, "x1");
    require_dtype(kOp, x1, "x1", x0.dtype);
    require_same_device(kOp, x0, "x0", x1, "x1");
    require_dtype(kOp, t, "t", accumulator(x0.dtype));
    require_same_device(kOp, x0, "x0", t, "t");
    if (t.ndim != 1 || t.shape[0] != x0.shape[0])
        refuse<std::invalid_argument>(kOp, ": t must be (", x0.shape[0], ",), a number a row; got ", shape_text(t));
    if (bins < 1 || bins > kMost || !(low < high) || !std::isfinite(high - low))
        refuse<std::invalid_argument>(kOp, ": expected low < high and 1 to ", kMost, " bins; got ", low, ", ", high,
                                      " and ", bins);
    std::vector<int64_t> shape(x0.shape, x0.shape + x0.ndim);
    shape.push_back(bins);
    const Tensor rate = frame.empty(x0.shape, x0.ndim, t.dtype, x0.device);
    const Tensor masses = frame.empty(shape.data(), x0.ndim + 1, t.dtype, x0.device);
    JumpBins p{};
    p.type = x0.dtype, p.rows = x0.rows(), p.size = x0.row_size(), p.bins = bins, p.low = low, p.high = high;
    p.x0 = x0.data, p.x0_stride = x0.row_stride, p.x1 = x1.data, p.x1_stride = x1.row_stride;
    p.t = t.data, p.t_stride = t.row_stride, p.rate = rate.data, p.masses = masses.data;
    PFK_LAUNCH(frame, x0.device, jump_bins, p, kCost * p.size * bins);
    return {rate, masses};
}

} // namespace

void expose_jump_bins(Module& module) { module.add<jump_bins>("jump_bins"); }

} // namespace pfk::bind
