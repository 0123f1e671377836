// activation_tangents: checks, allocation, launches.

#ifdef PFK_BACKEND_CPU

#include "../math/activation_tangents.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "activation_tangents";
constexpr int64_t kCost = 8; // of an element, in those of a copy

ActivationTangents problem_of(const Tensor& x, const Tensor& dx, int kind) {
    require_dtype(kOp, dx, "dx", x.dtype);
    require_same_device(kOp, x, "x", dx, "dx");
    bool fits = x.ndim > 0 && dx.ndim == x.ndim + 1 && dx.shape[0] == x.shape[0];
    for (int64_t d = 1; fits && d < x.ndim; ++d)
        fits = dx.shape[d + 1] == x.shape[d];
    if (!fits)
        refuse<std::invalid_argument>(kOp, ": x must be (B, *event) and dx (B, K, *event); got ", shape_text(x),
                                      " and ", shape_text(dx));
    if (kind != 0 && kind != 1)
        refuse<std::invalid_argument>(kOp, ": kind must be 0 (SiLU) or 1 (GELU by tanh); got ", kind);
    ActivationTangents p{};
    p.type = x.dtype, p.kind = static_cast<Smooth>(kind);
    p.rows = x.rows(), p.tangents = dx.shape[1], p.size = x.row_size();
    p.x = x.data, p.x_stride = x.row_stride, p.v = dx.data, p.v_stride = dx.row_stride;
    return p;
}

Outputs<2> outputs_of(Frame& frame, const Tensor& x, const Tensor& dx, ActivationTangents& p) {
    const Tensor y = frame.empty_like(x), dy = frame.empty_like(dx);
    p.y = y.data, p.vy = dy.data;
    return {y, dy};
}

Outputs<2> activation_tangents(Frame& frame, const Tensor& x, const Tensor& dx, int kind) {
    ActivationTangents p = problem_of(x, dx, kind);
    const Outputs<2> outputs = outputs_of(frame, x, dx, p);
    PFK_LAUNCH(frame, x.device, activation_tangents, p, (kCost + p.tangents) * p.size);
    return outputs;
}

Outputs<2> activation_tangents_backward(Frame& frame, const Tensor& x, const Tensor& dx, const Tensor& gy,
                                        const Tensor& gdy, int kind) {
    ActivationTangents p = problem_of(x, dx, kind);
    for (const auto& [gradient, like] : {std::pair{&gy, &x}, std::pair{&gdy, &dx}}) {
        require_dtype(kOp, *gradient, "a gradient", x.dtype);
        require_same_device(kOp, x, "x", *gradient, "a gradient");
        require_same_shape(kOp, *like, "what it belongs to", *gradient, "a gradient");
    }
    p.gy = gy.data, p.gy_stride = gy.row_stride, p.gvy = gdy.data, p.gvy_stride = gdy.row_stride;
    const Outputs<2> outputs = outputs_of(frame, x, dx, p);
    PFK_LAUNCH(frame, x.device, activation_tangents_backward, p, (kCost + 2 * p.tangents) * p.size);
    return outputs;
}

} // namespace

void expose_activation_tangents(Module& module) {
    module.add<activation_tangents>("activation_tangents");
    module.add<activation_tangents_backward>("activation_tangents_backward");
}

} // namespace pfk::bind

#endif
