// path_sample and path_between: checks, allocation, launch.

#include "../math/path_sample.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

PathSample problem_of(const char* op, const Tensor& x1, const Tensors& coefficients) {
    if (x1.ndim < 1)
        refuse<std::invalid_argument>(op, ": x1 must be (B, *event); got ", shape_text(x1));
    if (coefficients.count != 4)
        refuse<std::invalid_argument>(op, ": expected alpha, sigma and the rates of both; got ", coefficients.count,
                                      " tensors");
    PathSample p{};
    p.type = x1.dtype, p.rows = x1.rows(), p.size = x1.row_size();
    p.x1 = x1.data, p.x1_stride = x1.row_stride;
    for (int k = 0; k < 4; ++k) {
        const Tensor& c = coefficients[k];
        require_dtype(op, c, "a coefficient", accumulator(x1.dtype));
        require_same_device(op, x1, "x1", c, "a coefficient");
        if (c.ndim != 1 || c.rows() != p.rows)
            refuse<std::invalid_argument>(op, ": a coefficient must be (", p.rows, ",), a number a row; got ",
                                          shape_text(c));
        p.coefficients[k] = c.data, p.coefficient_stride[k] = c.row_stride;
    }
    return p;
}

PathSample drawn(const Tensor& x1, const Indices& keys, const Tensors& coefficients) {
    constexpr const char* op = "path_sample";
    PathSample p = problem_of(op, x1, coefficients);
    if (keys.ndim != 1 || keys.shape[0] != p.rows)
        refuse<std::invalid_argument>(op, ": keys must be (", p.rows, ",), one a row; got ",
                                      shape_text(keys.shape, keys.ndim));
    if (!(keys.device == x1.device))
        refuse<std::invalid_argument>(op, ": x1 and keys must be on one device; got ", name(x1.device), " and ",
                                      name(keys.device));
    p.keys = keys.data;
    return p;
}

void require_like(const char* op, const Tensor& x1, const Tensor& t, const char* t_name) {
    require_same_shape(op, x1, "x1", t, t_name);
    require_dtype(op, t, t_name, x1.dtype);
    require_same_device(op, x1, "x1", t, t_name);
}

PathSample between(const Tensor& x1, const Tensor& x0, const Tensors& coefficients) {
    constexpr const char* op = "path_between";
    PathSample p = problem_of(op, x1, coefficients);
    require_like(op, x1, x0, "x0");
    p.x0 = x0.data, p.x0_stride = x0.row_stride;
    return p;
}

constexpr int64_t kNormal = 4; // cost of a normal number, in those of a copy

Outputs<2> sample(Frame& frame, PathSample p, const Tensor& x1) {
    const Tensor x_t = frame.empty_like(x1), target = frame.empty_like(x1);
    p.x_t = x_t.data, p.target = target.data;
    PFK_LAUNCH(frame, x1.device, path_sample, p, (p.x0 == nullptr ? kNormal : 1) * p.size);
    return {x_t, target};
}

// The gradients of x1 and of the coefficients; p.dx0 is there already where x0 has one.
Tensors differentiate(Frame& frame, PathSample& p, const Tensor& x1, const Tensor& dx1, const Tensor& dx_t,
                      const Tensor& dtarget) {
    require_like("path_sample", x1, dx_t, "a gradient");
    require_like("path_sample", x1, dtarget, "a gradient");
    p.dx_t = dx_t.data, p.dx_t_stride = dx_t.row_stride;
    p.dtarget = dtarget.data, p.dtarget_stride = dtarget.row_stride;
    p.dx1 = dx1.data;
    Tensors dcoefficients{4, {}};
    for (int k = 0; k < 4; ++k) {
        dcoefficients.at[k] = frame.empty(x1.shape, 1, accumulator(x1.dtype), x1.device);
        p.dcoefficients[k] = dcoefficients[k].data;
    }
    PFK_LAUNCH(frame, x1.device, path_sample_backward, p, (p.x0 == nullptr ? kNormal : 2) * p.size);
    return dcoefficients;
}

Outputs<2> path_sample(Frame& frame, const Tensor& x1, const Indices& keys, const Tensors& coefficients) {
    return sample(frame, drawn(x1, keys, coefficients), x1);
}

Outputs<2> path_between(Frame& frame, const Tensor& x1, const Tensor& x0, const Tensors& coefficients) {
    return sample(frame, between(x1, x0, coefficients), x1);
}

OutputsAndList<1> path_sample_backward(Frame& frame, const Tensor& x1, const Indices& keys, const Tensors& coefficients,
                                       const Tensor& dx_t, const Tensor& dtarget) {
    PathSample p = drawn(x1, keys, coefficients);
    const Tensor dx1 = frame.empty_like(x1);
    return {{dx1}, differentiate(frame, p, x1, dx1, dx_t, dtarget)};
}

OutputsAndList<2> path_between_backward(Frame& frame, const Tensor& x1, const Tensor& x0, const Tensors& coefficients,
                                        const Tensor& dx_t, const Tensor& dtarget) {
    PathSample p = between(x1, x0, coefficients);
    const Tensor dx1 = frame.empty_like(x1), dx0 = frame.empty_like(x1);
    p.dx0 = dx0.data;
    return {{dx1, dx0}, differentiate(frame, p, x1, dx1, dx_t, dtarget)};
}

} // namespace

void expose_path_sample(Module& module) {
    module.add<path_sample>("path_sample");
    module.add<path_sample_backward>("path_sample_backward");
    module.add<path_between>("path_between");
    module.add<path_between_backward>("path_between_backward");
}

} // namespace pfk::bind
