// modulated_norm: checks, allocation, launches.

#include "../math/modulated_norm.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "modulated_norm";
constexpr int64_t kCost = 2; // of an element, in those of a copy

void require_shape(const Tensor& t, const char* t_name, std::initializer_list<int64_t> expected) {
    bool fits = t.ndim == static_cast<int64_t>(expected.size());
    for (int64_t d = 0; fits && d < t.ndim; ++d)
        fits = t.shape[d] == expected.begin()[d];
    if (!fits)
        refuse<std::invalid_argument>(kOp, ": ", t_name, " must be ",
                                      shape_text(expected.begin(), static_cast<int64_t>(expected.size())), "; got ",
                                      shape_text(t));
}

void require_param(const ModulatedNorm& p, const Tensor& x, const Tensor& t, const char* t_name) {
    require_dtype(kOp, t, t_name, p.param);
    require_same_device(kOp, x, "x", t, t_name);
}

ModulatedNorm problem_of(const Tensor& x, const Tensor& scale, bool rms, double eps) {
    const bool narrow = scale.dtype == DType::BF16 || scale.dtype == DType::F16;
    if (scale.dtype != x.dtype && !(x.dtype == DType::F32 && narrow))
        refuse<TypeError>(kOp, ": scale must have x's dtype (or 16 bits beside a float32 x); got x ", name(x.dtype),
                          ", scale ", name(scale.dtype));
    require_same_device(kOp, x, "x", scale, "scale");
    if (x.ndim != 3)
        refuse<std::invalid_argument>(kOp, ": x must be (B, T, C); got ", shape_text(x));
    require_shape(scale, "scale", {x.shape[0], x.shape[2]});
    if (!(eps >= 0))
        refuse<std::invalid_argument>(kOp, ": eps must not be negative; got ", eps);
    ModulatedNorm p{};
    p.state = x.dtype, p.param = scale.dtype, p.rms = rms, p.eps = eps;
    p.events = x.shape[0], p.tokens = x.shape[1], p.size = x.shape[2];
    p.x = x.data, p.x_stride = x.row_stride, p.scale = scale.data, p.scale_stride = scale.row_stride;
    return p;
}

ModulatedNorm forward_of(const Tensor& x, const Tensor& scale, const Tensor& shift, bool rms, double eps) {
    ModulatedNorm p = problem_of(x, scale, rms, eps);
    require_param(p, x, shift, "shift");
    require_shape(shift, "shift", {p.events, p.size});
    p.shift = shift.data, p.shift_stride = shift.row_stride;
    p.rows = p.events * p.tokens;
    return p;
}

Outputs<1> modulated_norm(Frame& frame, const Tensor& x, const Tensor& scale, const Tensor& shift, bool rms,
                          double eps) {
    ModulatedNorm p = forward_of(x, scale, shift, rms, eps);
    const Tensor y = frame.empty_like(x);
    p.y = y.data;
    PFK_LAUNCH(frame, x.device, modulated_norm, p, kCost * p.size);
    return {y};
}

Outputs<2> modulated_norm_tangents(Frame& frame, const Tensor& x, const Tensor& scale, const Tensor& shift,
                                   const Tensor& dx, const Tensor& dscale, const Tensor& dshift, bool rms, double eps) {
    ModulatedNorm p = forward_of(x, scale, shift, rms, eps);
    require_dtype(kOp, dx, "dx", p.state);
    require_same_device(kOp, x, "x", dx, "dx");
    if (dx.ndim != 4)
        refuse<std::invalid_argument>(kOp, ": dx must be (B, K, T, C); got ", shape_text(dx));
    p.tangents = dx.shape[1];
    require_shape(dx, "dx", {p.events, p.tangents, p.tokens, p.size});
    require_param(p, x, dscale, "dscale");
    require_param(p, x, dshift, "dshift");
    p.moving = dscale.ndim != 3 || dscale.shape[1] != 0; // else they stand still: (B, 0, C)
    const int64_t moving = p.moving ? p.tangents : 0;
    require_shape(dscale, "dscale", {p.events, moving, p.size});
    require_shape(dshift, "dshift", {p.events, moving, p.size});
    p.vx = dx.data, p.vx_stride = dx.row_stride;
    p.vscale = dscale.data, p.vscale_stride = dscale.row_stride;
    p.vshift = dshift.data, p.vshift_stride = dshift.row_stride;
    const Tensor y = frame.empty_like(x), dy = frame.empty_like(dx);
    p.y = y.data, p.vy = dy.data;
    PFK_LAUNCH(frame, x.device, modulated_norm_tangents, p, 2 * kCost * (1 + p.tangents) * p.size);
    return {y, dy};
}

Outputs<3> modulated_norm_backward(Frame& frame, const Tensor& x, const Tensor& scale, const Tensor& dy, bool rms,
                                   double eps) {
    ModulatedNorm p = problem_of(x, scale, rms, eps);
    require_dtype(kOp, dy, "a gradient", x.dtype);
    require_same_device(kOp, x, "x", dy, "a gradient");
    require_same_shape(kOp, x, "x", dy, "a gradient");
    p.dy = dy.data, p.dy_stride = dy.row_stride, p.rows = p.events;
    const Tensor dx = frame.empty_like(x), dscale = frame.empty_like(scale), dshift = frame.empty_like(scale);
    p.dx = dx.data, p.dscale = dscale.data, p.dshift = dshift.data;
    const int64_t scratch = PFK_SCRATCH(modulated_norm_backward, p);
    if (scratch > 0)
        p.scratch = frame.empty(&scratch, 1, accumulator(x.dtype), x.device).data;
    PFK_LAUNCH(frame, x.device, modulated_norm_backward, p, 2 * kCost * p.tokens * p.size);
    return {dx, dscale, dshift};
}

} // namespace

void expose_modulated_norm(Module& module) {
    module.add<modulated_norm>("modulated_norm");
    module.add<modulated_norm_tangents>("modulated_norm_tangents");
    module.add<modulated_norm_backward>("modulated_norm_backward");
}

} // namespace pfk::bind
