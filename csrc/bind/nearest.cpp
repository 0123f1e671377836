// nearest: checks, allocation, launch.

#include "../math/nearest.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "nearest";

Outputs<2> nearest(Frame& frame, const Tensor& x0, const Tensor& x1, const Tensor& heights) {
    if (x0.ndim != 2 || x1.ndim != 2 || x0.shape[1] != x1.shape[1])
        refuse<std::invalid_argument>(kOp, ": expected x0 (B, D) and x1 (N, D); got ", shape_text(x0), " and ",
                                      shape_text(x1));
    require_dtype(kOp, x1, "x1", x0.dtype);
    require_dtype(kOp, heights, "heights", accumulator(x0.dtype));
    require_same_device(kOp, x0, "x0", x1, "x1");
    require_same_device(kOp, x0, "x0", heights, "heights");
    if (heights.ndim != 1 || heights.shape[0] != x1.shape[0])
        refuse<std::invalid_argument>(kOp, ": heights must be (", x1.shape[0], ",); got ", shape_text(heights));
    if (x1.shape[0] == 0 && x0.shape[0] > 0)
        refuse<std::invalid_argument>(kOp, ": there is no target");
    const Tensor index = frame.empty_indices(x0.shape, 1, x0.device);
    const Tensor value = frame.empty(x0.shape, 1, heights.dtype, x0.device);
    Nearest p{};
    p.type = x0.dtype, p.rows = x0.shape[0], p.targets = x1.shape[0], p.size = x0.shape[1];
    p.x0 = x0.data, p.x0_stride = x0.row_stride, p.x1 = x1.data, p.x1_stride = x1.row_stride;
    p.heights = heights.data, p.heights_stride = heights.row_stride;
    p.index = static_cast<int64_t*>(index.data), p.value = value.data;
    PFK_LAUNCH(frame, x0.device, nearest, p, p.targets * (p.size + 1));
    return {index, value};
}

} // namespace

void expose_nearest(Module& module) { module.add<nearest>("nearest"); }

} // namespace pfk::bind
