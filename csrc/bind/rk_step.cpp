// The parts of a Runge-Kutta step: checks, allocation, launch.

#include "../math/rk_step.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

// Slopes like `y`, with as many weights.
Slopes slopes_of(const char* op, const Tensor& y, const char* y_name, const Tensors& k, const Numbers& weights) {
    const int count = k.count;
    if (count < 1 || count > kMostSlopes)
        refuse<std::invalid_argument>(op, ": expected 1 to ", kMostSlopes, " slopes; got ", count);
    if (y.ndim < 1)
        refuse<std::invalid_argument>(op, ": ", y_name, " must be (B, *event); got ", shape_text(y));
    if (weights.count != count)
        refuse<std::invalid_argument>(op, ": expected ", count, " weights, one a slope; got ", weights.count);
    Slopes slopes{};
    slopes.count = count;
    for (int j = 0; j < count; ++j) {
        const std::string name = "slope " + std::to_string(j);
        require_same_shape(op, y, y_name, k[j], name.c_str());
        require_dtype(op, k[j], name.c_str(), y.dtype);
        require_same_device(op, y, y_name, k[j], name.c_str());
        slopes.k[j] = k[j].data;
        slopes.stride[j] = k[j].row_stride;
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

// Accumulators for sums in pieces; null for none.
void* scratch_of(Frame& frame, int64_t count, const Tensor& y) {
    return count > 0 ? frame.empty(&count, 1, accumulator(y.dtype), y.device).data : nullptr;
}

Outputs<1> rk_combine(Frame& frame, const Tensor& y, const Tensor& h, const Tensors& k, const Numbers& weights) {
    constexpr const char* op = "rk_combine";
    const Slopes slopes = slopes_of(op, y, "y", k, weights);
    require_rows(op, h, "h", y);
    Tensor out = frame.empty_like(y);
    RkCombine problem{y.dtype, y.rows(), y.row_size(), slopes, y.data, h.data, y.row_stride, h.row_stride, out.data};
    PFK_LAUNCH(frame, y.device, rk_combine, problem, problem.size);
    return {out};
}

OutputsAndList<2> rk_combine_backward(Frame& frame, const Tensor& h, const Tensors& k, const Tensor& dy,
                                      const Numbers& weights) {
    constexpr const char* op = "rk_combine";
    const Slopes slopes = slopes_of(op, dy, "dy", k, weights);
    require_rows(op, h, "h", dy);
    RkCombineBackward problem{dy.dtype,      dy.rows(),    dy.row_size(), slopes,  dy.data, h.data,
                              dy.row_stride, h.row_stride, nullptr,       nullptr, {}};
    OutputsAndList<2> outputs{{frame.empty_like(dy), frame.empty(dy.shape, 1, h.dtype, h.device)}, {k.count, {}}};
    problem.dstate = outputs.first[0].data;
    problem.dh = outputs.first[1].data;
    for (int j = 0; j < k.count; ++j) {
        outputs.list.at[j] = frame.empty_like(dy);
        problem.dk[j] = outputs.list[j].data;
    }
    problem.scratch = scratch_of(frame, PFK_SCRATCH(rk_combine_backward, problem), dy);
    PFK_LAUNCH(frame, dy.device, rk_combine_backward, problem, 2 * problem.size);
    return outputs;
}

Outputs<1> rk_error(Frame& frame, const Tensor& y0, const Tensor& y1, const Tensor& h, const Tensors& k,
                    const Numbers& weights, double rtol, double atol) {
    constexpr const char* op = "rk_error";
    const Slopes slopes = slopes_of(op, y0, "y0", k, weights);
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
    problem.scratch = scratch_of(frame, PFK_SCRATCH(rk_error, problem), y0);
    PFK_LAUNCH(frame, y0.device, rk_error, problem, problem.size);
    return {norm};
}

Outputs<4> rk_control(Frame& frame, const Tensor& y0, const Tensor& y1, const Tensor& k0, const Tensor& k1,
                      const Tensor& clock, const Tensors& k, const Numbers& weights, const Numbers& control,
                      const Numbers& c) {
    constexpr const char* op = "rk_control";
    const Slopes slopes = slopes_of(op, y0, "y0", k, weights);
    const Tensor* const others[] = {&y1, &k0, &k1};
    const char* const names[] = {"y1", "k0", "k1"};
    for (int i = 0; i < 3; ++i) {
        require_same_shape(op, y0, "y0", *others[i], names[i]);
        require_dtype(op, *others[i], names[i], y0.dtype);
        require_same_device(op, y0, "y0", *others[i], names[i]);
    }
    require_dtype(op, clock, "clock", DType::F64);
    require_same_device(op, y0, "y0", clock, "clock");
    if (clock.ndim != 2 || clock.rows() != y0.rows() || clock.shape[1] != kClock)
        refuse<std::invalid_argument>(op, ": clock must be (", y0.rows(), ", ", int(kClock), "); got ",
                                      shape_text(clock));
    if (control.count != 11)
        refuse<std::invalid_argument>(op, ": control must be 11 numbers; got ", control.count);
    if (c.count < 1 || c.count > kMostTimes)
        refuse<std::invalid_argument>(op, ": c must be 1 to ", kMostTimes, " numbers; got ", c.count);
    const double* n = control.at;
    RkControl problem{};
    problem.type = y0.dtype;
    problem.rows = y0.rows();
    problem.size = y0.row_size();
    problem.slopes = slopes;
    problem.control = {n[0], n[1], n[2], n[3], n[4], {n[5], n[6], n[7]}, n[8], n[9], n[10]};
    problem.stages = c.count;
    for (int i = 0; i < c.count; ++i)
        problem.c[i] = c.at[i];
    problem.y0 = y0.data;
    problem.y1 = y1.data;
    problem.k0 = k0.data;
    problem.k1 = k1.data;
    problem.clock = static_cast<const double*>(clock.data);
    problem.y0_stride = y0.row_stride;
    problem.y1_stride = y1.row_stride;
    problem.k0_stride = k0.row_stride;
    problem.k1_stride = k1.row_stride;
    problem.clock_stride = clock.row_stride;
    const int64_t times[] = {y0.rows(), c.count + 1};
    const Outputs<4> outputs{frame.empty_like(y0), frame.empty_like(y0), frame.empty_like(clock),
                             frame.empty(times, 2, accumulator(y0.dtype), y0.device)};
    problem.y = outputs[0].data;
    problem.k = outputs[1].data;
    problem.after = static_cast<double*>(outputs[2].data);
    problem.times = outputs[3].data;
    problem.scratch = scratch_of(frame, PFK_SCRATCH(rk_control, problem), y0);
    PFK_LAUNCH(frame, y0.device, rk_control, problem, 2 * problem.size + 64);
    return outputs;
}

} // namespace

void expose_rk_step(Module& module) {
    module.add<rk_combine>("rk_combine");
    module.add<rk_combine_backward>("rk_combine_backward");
    module.add<rk_error>("rk_error");
    module.add<rk_control>("rk_control");
}

} // namespace pfk::bind
