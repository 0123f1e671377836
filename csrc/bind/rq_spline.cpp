// rq_spline: checks, allocation, launch.

#include "../math/rq_spline.h"
#include "function.h"
#include "launch.h"
#include "spline.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "rq_spline";

void require_types(const Tensor& x, const Tensor& params) {
    const bool narrow = params.dtype == DType::BF16 || params.dtype == DType::F16;
    if (params.dtype != x.dtype && !(x.dtype == DType::F32 && narrow))
        refuse<TypeError>(kOp, ": params must have x's dtype (or 16 bits beside a float32 x); got x ", name(x.dtype),
                          ", params ", name(params.dtype));
    require_same_device(kOp, x, "x", params, "params");
}

Event event_of(const Tensor& x, const Tensor& params, int mask, bool interleaved, const Spline& spline) {
    if (mask < 0 || mask == 1 || mask > 7)
        refuse<std::invalid_argument>(kOp, ": no such mask: ", mask);
    const auto kind = static_cast<Mask>(mask);
    const bool board = is_checkerboard(kind);
    if (x.ndim < 2 || (board && x.ndim != 4))
        refuse<std::invalid_argument>(kOp, ": x must be ", board ? "(B, C, H, W)" : "(B, C, *rest)", "; got ",
                                      shape_text(x));
    Event event{x.shape[1], 1, board ? x.shape[3] : 1, kind, interleaved, spline.params()};
    const int64_t channels = moved_channels(event) * event.params;
    std::string expected = "(" + std::to_string(x.shape[0]) + ", " + std::to_string(channels);
    bool fits = params.ndim == x.ndim && params.shape[0] == x.shape[0] && params.shape[1] == channels;
    for (int64_t d = 2; d < x.ndim; ++d) {
        event.inner *= x.shape[d];
        expected += ", " + std::to_string(x.shape[d]);
        fits = fits && params.shape[d] == x.shape[d];
    }
    if (!fits)
        refuse<std::invalid_argument>(kOp, ": params must be ", expected, ") for x ", shape_text(x),
                                      " under this mask; got ", shape_text(params));
    return event;
}

Outputs<2> rq_spline(Frame& frame, const Tensor& x, const Tensor& params, int mask, int bins, int tails, double low,
                     double high, double min_width, double min_height, double min_slope, double softclip,
                     bool interleaved, bool inverse) {
    require_types(x, params);
    const Spline spline = spline_of(kOp, bins, tails, low, high, min_width, min_height, min_slope, softclip, inverse);
    const Event event = event_of(x, params, mask, interleaved, spline);
    Tensor y = frame.empty_like(x), ladj = frame.empty(x.shape, 1, accumulator(x.dtype), x.device);
    RqSpline problem{event,  spline,      x.dtype,      params.dtype,      x.rows(), x.row_size(), params.row_size(),
                     x.data, params.data, x.row_stride, params.row_stride, y.data,   ladj.data};
    const int64_t scratch = PFK_SCRATCH(rq_spline, problem);
    if (scratch > 0)
        problem.scratch = frame.empty(&scratch, 1, ladj.dtype, x.device).data;
    PFK_LAUNCH(frame, x.device, rq_spline, problem, problem.size + 2 * problem.param_size);
    return {y, ladj};
}

Outputs<2> rq_spline_backward(Frame& frame, const Tensor& x, const Tensor& y, const Tensor& params, const Tensor& dy,
                              const Tensor& dladj, int mask, int bins, int tails, double low, double high,
                              double min_width, double min_height, double min_slope, double softclip, bool interleaved,
                              bool inverse) {
    const Tensor& u = inverse ? y : x;
    require_types(u, params);
    require_same_shape(kOp, u, "x", dy, "dy");
    require_dtype(kOp, dy, "dy", u.dtype);
    require_same_device(kOp, u, "x", dy, "dy");
    require_dtype(kOp, dladj, "dladj", accumulator(u.dtype));
    require_same_device(kOp, u, "x", dladj, "dladj");
    const Spline spline = spline_of(kOp, bins, tails, low, high, min_width, min_height, min_slope, softclip, inverse);
    const Event event = event_of(u, params, mask, interleaved, spline);
    if (dladj.ndim != 1 || dladj.rows() != u.rows())
        refuse<std::invalid_argument>(kOp, ": dladj must be (", u.rows(), ",); got ", shape_text(dladj));
    Tensor dx = frame.empty_like(u), dparams = frame.empty_like(params);
    RqSplineBackward problem{
        event,       spline,  u.dtype,    params.dtype, u.rows(),          u.row_size(),  params.row_size(), u.data,
        params.data, dy.data, dladj.data, u.row_stride, params.row_stride, dy.row_stride, dladj.row_stride,  dx.data,
        dparams.data};
    PFK_LAUNCH(frame, u.device, rq_spline_backward, problem, problem.size + 4 * problem.param_size);
    return {dx, dparams};
}

} // namespace

void expose_rq_spline(Module& module) {
    module.add<rq_spline>("rq_spline");
    module.add<rq_spline_backward>("rq_spline_backward");
}

} // namespace pfk::bind
