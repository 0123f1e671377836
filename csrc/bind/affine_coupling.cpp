// affine_coupling: checks, allocation, launch.

#include "../math/affine_coupling.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "affine_coupling";

void require_types(const Tensor& x, const Tensor& params) {
    const bool narrow = params.dtype == DType::BF16 || params.dtype == DType::F16;
    if (params.dtype != x.dtype && !(x.dtype == DType::F32 && narrow))
        refuse<TypeError>(kOp, ": params must have x's dtype (or 16 bits beside a float32 x); got x ", name(x.dtype),
                          ", params ", name(params.dtype));
    require_same_device(kOp, x, "x", params, "params");
}

Event event_of(const Tensor& x, const Tensor& params, int mask, int bound, double limit, bool interleaved) {
    if (mask < 0 || mask == 1 || mask > 7 || bound < 0 || bound >= kCouplingBounds)
        refuse<std::invalid_argument>(kOp, ": no such mask or bound: ", mask, ", ", bound);
    const auto kind = static_cast<Mask>(mask);
    const bool board = is_checkerboard(kind);
    if (x.ndim < 2 || (board && x.ndim != 4))
        refuse<std::invalid_argument>(kOp, ": x must be ", board ? "(B, C, H, W)" : "(B, C, *rest)", "; got ",
                                      shape_text(x));
    Event event{x.shape[1], 1,           board ? x.shape[3] : 1,
                kind,       interleaved, bound == static_cast<int>(Bound::Additive) ? 1 : 2};
    for (int64_t d = 2; d < x.ndim; ++d)
        event.inner *= x.shape[d];
    std::string expected =
        "(" + std::to_string(x.shape[0]) + ", " + std::to_string(moved_channels(event) * event.params);
    bool fits = params.ndim == x.ndim && params.shape[0] == x.shape[0] &&
                params.shape[1] == moved_channels(event) * event.params;
    for (int64_t d = 2; d < x.ndim; ++d) {
        expected += ", " + std::to_string(x.shape[d]);
        fits = fits && params.shape[d] == x.shape[d];
    }
    if (!fits)
        refuse<std::invalid_argument>(kOp, ": params must be ", expected, ") for x ", shape_text(x),
                                      " under this mask; got ", shape_text(params));
    if (!(limit > 0 && limit <= kLargestLimit))
        refuse<std::invalid_argument>(kOp, ": limit must be in (0, ", kLargestLimit, "]; got ", limit);
    return event;
}

Outputs<2> affine_coupling(Frame& frame, const Tensor& x, const Tensor& params, int mask, int bound, double limit,
                           bool interleaved, bool inverse, Inplace inplace) {
    require_types(x, params);
    const Event event = event_of(x, params, mask, bound, limit, interleaved);
    Tensor y = inplace.wanted ? x : frame.empty_like(x);
    Tensor ladj = frame.empty(x.shape, 1, accumulator(x.dtype), x.device);
    AffineCoupling problem{event,
                           static_cast<Bound>(bound),
                           inverse,
                           limit,
                           x.dtype,
                           params.dtype,
                           x.rows(),
                           x.row_size(),
                           params.row_size(),
                           x.data,
                           params.data,
                           x.row_stride,
                           params.row_stride,
                           y.data,
                           y.row_stride,
                           ladj.data};
    const int64_t scratch = PFK_SCRATCH(affine_coupling, problem);
    if (scratch > 0)
        problem.scratch = frame.empty(&scratch, 1, ladj.dtype, x.device).data;
    PFK_LAUNCH(frame, x.device, affine_coupling, problem, problem.size);
    return {y, ladj};
}

Outputs<2> affine_coupling_backward(Frame& frame, const Tensor& y, const Tensor& params, const Tensor& dy,
                                    const Tensor& dladj, int mask, int bound, double limit, bool interleaved,
                                    bool inverse) {
    require_types(y, params);
    require_same_shape(kOp, y, "y", dy, "dy");
    require_dtype(kOp, dy, "dy", y.dtype);
    require_same_device(kOp, y, "y", dy, "dy");
    require_dtype(kOp, dladj, "dladj", accumulator(y.dtype));
    require_same_device(kOp, y, "y", dladj, "dladj");
    const Event event = event_of(y, params, mask, bound, limit, interleaved);
    if (dladj.ndim != 1 || dladj.rows() != y.rows())
        refuse<std::invalid_argument>(kOp, ": dladj must be (", y.rows(), ",); got ", shape_text(dladj));
    Tensor dx = frame.empty_like(y), dparams = frame.empty_like(params);
    AffineCouplingBackward problem{event,
                                   static_cast<Bound>(bound),
                                   inverse,
                                   limit,
                                   y.dtype,
                                   params.dtype,
                                   y.rows(),
                                   y.row_size(),
                                   params.row_size(),
                                   y.data,
                                   params.data,
                                   dy.data,
                                   dladj.data,
                                   y.row_stride,
                                   params.row_stride,
                                   dy.row_stride,
                                   dladj.row_stride,
                                   dx.data,
                                   dparams.data};
    PFK_LAUNCH(frame, y.device, affine_coupling_backward, problem, 2 * problem.size);
    return {dx, dparams};
}

} // namespace

void expose_affine_coupling(Module& module) {
    module.add<affine_coupling>("affine_coupling");
    module.add<affine_coupling_backward>("affine_coupling_backward");
}

} // namespace pfk::bind
