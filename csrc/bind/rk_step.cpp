// The two halves of a Runge-Kutta step: checks, allocation, launch.

#include "../math/rk_step.h"
#include "launch.h"
#include "ops.h"

namespace pfk::bind {
namespace {

// Slopes like `y`, with as many weights.
Slopes slopes_of(const char* op, const Tensor& y, const char* y_name, const Tensor* const* k, int count,
                 const Numbers& weights) {
    if (y.ndim < 1)
        refuse<std::invalid_argument>(op, ": ", y_name, " must be (B, *event); got ", shape_text(y));
    if (weights.count != count)
        refuse<std::invalid_argument>(op, ": expected ", count, " weights, one a slope; got ", weights.count);
    Slopes slopes{};
    slopes.count = count;
    for (int j = 0; j < count; ++j) {
        const std::string name = "slope " + std::to_string(j);
        require_same_shape(op, y, y_name, *k[j], name.c_str());
        require_dtype(op, *k[j], name.c_str(), y.dtype);
        require_same_device(op, y, y_name, *k[j], name.c_str());
        slopes.k[j] = k[j]->data;
        slopes.stride[j] = k[j]->row_stride;
        slopes.weight[j] = weights.at[j];
    }
    return slopes;
}

void require_rows(const char* op, const Tensor& t, const char* t_name, const Tensor& y) {
    require_dtype(op, t, t_name, accumulator(y.dtype));
    require_same_device(op, y, "y", t, t_name);
    if (t.ndim != 1 || t.rows() != y.rows())
        refuse<std::invalid_argument>(op, ": ", t_name, " must be (", y.rows(), ",), a number a row; got ",
                                      shape_text(t));
}

} // namespace

Tensor rk_combine(Frame& frame, const Tensor& y, const Tensor& h, const Tensor* const* k, int count,
                  const Numbers& weights) {
    constexpr const char* op = "rk_combine";
    const Slopes slopes = slopes_of(op, y, "y", k, count, weights);
    require_rows(op, h, "h", y);
    Tensor out = frame.empty_like(y);
    RkCombine problem{y.dtype, y.rows(), y.row_size(), slopes, y.data, h.data, y.row_stride, h.row_stride, out.data};
    PFK_LAUNCH(frame, y.device, rk_combine, problem, problem.size);
    return out;
}

void rk_combine_backward(Frame& frame, const Tensor& h, const Tensor* const* k, int count, const Tensor& dy,
                         const Numbers& weights, Tensor* outputs) {
    constexpr const char* op = "rk_combine";
    const Slopes slopes = slopes_of(op, dy, "dy", k, count, weights);
    require_rows(op, h, "h", dy);
    RkCombineBackward problem{dy.dtype,      dy.rows(),    dy.row_size(), slopes,  dy.data, h.data,
                              dy.row_stride, h.row_stride, nullptr,       nullptr, {}};
    outputs[0] = frame.empty_like(dy);
    outputs[1] = frame.empty(dy.shape, 1, h.dtype, h.device);
    problem.dstate = outputs[0].data;
    problem.dh = outputs[1].data;
    for (int j = 0; j < count; ++j) {
        outputs[2 + j] = frame.empty_like(dy);
        problem.dk[j] = outputs[2 + j].data;
    }
    PFK_LAUNCH(frame, dy.device, rk_combine_backward, problem, 2 * problem.size);
}

Tensor rk_error(Frame& frame, const Tensor& y0, const Tensor& y1, const Tensor& h, const Tensor* const* k, int count,
                const Numbers& weights, double rtol, double atol) {
    constexpr const char* op = "rk_error";
    const Slopes slopes = slopes_of(op, y0, "y0", k, count, weights);
    require_same_shape(op, y0, "y0", y1, "y1");
    require_dtype(op, y1, "y1", y0.dtype);
    require_same_device(op, y0, "y0", y1, "y1");
    require_rows(op, h, "h", y0);
    if (!(rtol >= 0 && atol >= 0 && rtol + atol > 0))
        refuse<std::invalid_argument>(op, ": rtol and atol must not be negative nor both zero; got rtol=", rtol,
                                      ", atol=", atol);
    Tensor norm = frame.empty(y0.shape, 1, h.dtype, h.device);
    RkError problem{y0.dtype, y0.rows(), y0.row_size(), slopes,        rtol,         atol,     y0.data,
                    y1.data,  h.data,    y0.row_stride, y1.row_stride, h.row_stride, norm.data};
    PFK_LAUNCH(frame, y0.device, rk_error, problem, problem.size);
    return norm;
}

} // namespace pfk::bind
