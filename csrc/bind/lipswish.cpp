// lipswish: checks, allocation, launches.

#ifdef PFK_BACKEND_CPU

#include "../math/lipswish.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "lipswish";

LipSwish problem_of(const Tensor& x, const Tensor& beta) {
    if (x.dtype != accumulator(x.dtype))
        refuse<TypeError>(kOp, ": x must be float32 or float64; got ", name(x.dtype));
    if (x.ndim < 1)
        refuse<std::invalid_argument>(kOp, ": x must be (B, *event); got ", shape_text(x));
    require_dtype(kOp, beta, "beta", x.dtype);
    require_same_device(kOp, x, "x", beta, "beta");
    if (beta.ndim != 1 || beta.shape[0] != 1)
        refuse<std::invalid_argument>(kOp, ": beta must be (1,); got ", shape_text(beta));
    LipSwish p{};
    p.type = x.dtype, p.rows = p.samples = x.rows(), p.size = x.row_size();
    p.x = x.data, p.x_stride = x.row_stride, p.beta = beta.data;
    return p;
}

constexpr int64_t kCost = 8; // of an element, in those of a copy

Outputs<2> lipswish(Frame& frame, const Tensor& x, const Tensor& beta) {
    LipSwish p = problem_of(x, beta);
    const Tensor value = frame.empty_like(x), slope = frame.empty_like(x);
    p.value = value.data, p.slope = slope.data;
    PFK_LAUNCH(frame, x.device, lipswish, p, kCost * p.size);
    return {value, slope};
}

Outputs<2> lipswish_backward(Frame& frame, const Tensor& x, const Tensor& beta, const Tensor& dvalue,
                             const Tensor& dslope) {
    LipSwish p = problem_of(x, beta);
    for (const Tensor* t : {&dvalue, &dslope}) {
        require_dtype(kOp, *t, "a gradient", x.dtype);
        require_same_device(kOp, x, "x", *t, "a gradient");
        require_same_shape(kOp, x, "x", *t, "a gradient");
    }
    p.dvalue = dvalue.data, p.dvalue_stride = dvalue.row_stride;
    p.dslope = dslope.data, p.dslope_stride = dslope.row_stride;
    const Tensor dx = frame.empty_like(x), dbeta = frame.empty_like(beta);
    p.dx = dx.data, p.dbeta = dbeta.data;
    p.partial = frame.empty(x.shape, 1, x.dtype, x.device).data;
    PFK_LAUNCH(frame, x.device, lipswish_backward, p, 2 * kCost * p.size);
    p.rows = 1;
    PFK_LAUNCH(frame, x.device, lipswish_total, p, p.samples);
    return {dx, dbeta};
}

} // namespace

void expose_lipswish(Module& module) {
    module.add<lipswish>("lipswish");
    module.add<lipswish_backward>("lipswish_backward");
}

} // namespace pfk::bind

#endif
