// conv1x1: checks, allocation, launches.

#include "../math/conv1x1.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "conv1x1";

// Columns of one chunk of the weight gradient, and how many chunks there may be: enough for every core or
// multiprocessor, and no more memory than that takes.
#ifdef PFK_BACKEND_CPU
constexpr int64_t kChunk = 2048, kMostChunks = 64;
#else
constexpr int64_t kChunk = 256, kMostChunks = 512;
#endif

int64_t positions_of(const Tensor& x) {
    int64_t positions = 1;
    for (int64_t d = 2; d < x.ndim; ++d)
        positions *= x.shape[d];
    return positions;
}

void require_vector(const Tensor& x, const Tensor& v, const char* v_name, bool may_be_empty) {
    require_same_device(kOp, x, "x", v, v_name);
    require_dtype(kOp, v, v_name, accumulator(x.dtype));
    if (v.ndim != 1 || !(v.shape[0] == x.shape[1] || (may_be_empty && v.shape[0] == 0)))
        refuse<std::invalid_argument>(kOp, ": ", v_name, " must be (", x.shape[1], ",)", may_be_empty ? " or (0,)" : "",
                                      " for x ", shape_text(x), "; got ", shape_text(v));
}

void require_arguments(const Tensor& x, const Tensor& weight, const Tensor& bias) {
    if (x.ndim < 2)
        refuse<std::invalid_argument>(kOp, ": x must be (B, C, *rest); got ", shape_text(x));
    require_same_device(kOp, x, "x", weight, "weight");
    require_dtype(kOp, weight, "weight", accumulator(x.dtype));
    if (weight.ndim != 2 || weight.shape[0] != x.shape[1] || weight.shape[1] != x.shape[1])
        refuse<std::invalid_argument>(kOp, ": weight must be (", x.shape[1], ", ", x.shape[1], ") for x ",
                                      shape_text(x), "; got ", shape_text(weight));
    require_vector(x, bias, "bias", true);
}

Conv1x1 product_of(const Tensor& x, const Tensor& weight, const Tensor& y) {
    Conv1x1 problem{};
    problem.state = x.dtype;
    problem.rows = x.rows();
    problem.channels = x.shape[1];
    problem.positions = positions_of(x);
    problem.x = x.data;
    problem.x_stride = x.row_stride;
    problem.weight = weight.data;
    problem.weight_stride = weight.row_stride;
    problem.y = y.data;
    return problem;
}

// Elements of work in a row, for the choice of threads: a product costs more than an element of a pass over memory.
int64_t work_of(const Conv1x1& p) { return p.channels * p.positions * (1 + p.channels / 8); }

Outputs<2> conv1x1(Frame& frame, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& terms) {
    require_arguments(x, weight, bias);
    require_vector(x, terms, "terms", false);
    const Tensor y = frame.empty_like(x);
    const Tensor ladj = frame.empty(x.shape, 1, accumulator(x.dtype), x.device);
    Conv1x1 problem = product_of(x, weight, y);
    problem.bias = bias.shape[0] > 0 ? bias.data : nullptr;
    problem.bias_stride = bias.row_stride;
    problem.terms = terms.data;
    problem.terms_stride = terms.row_stride;
    problem.ladj = ladj.data;
    PFK_LAUNCH(frame, x.device, conv1x1, problem, work_of(problem));
    return {y, ladj};
}

Outputs<4> conv1x1_backward(Frame& frame, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& dy,
                            const Tensor& dladj) {
    require_arguments(x, weight, bias);
    require_same_shape(kOp, x, "x", dy, "dy");
    require_dtype(kOp, dy, "dy", x.dtype);
    require_same_device(kOp, x, "x", dy, "dy");
    require_dtype(kOp, dladj, "dladj", accumulator(x.dtype));
    require_same_device(kOp, x, "x", dladj, "dladj");
    if (dladj.ndim != 1 || dladj.rows() != x.rows())
        refuse<std::invalid_argument>(kOp, ": dladj must be (", x.rows(), ",); got ", shape_text(dladj));
    const DType sums = accumulator(x.dtype);
    const Tensor dx = frame.empty_like(x);
    const Tensor dweight = frame.empty(weight.shape, 2, sums, x.device);
    const Tensor dbias = frame.empty(bias.shape, 1, sums, x.device);
    const Tensor dterms = frame.empty(x.shape + 1, 1, sums, x.device);

    Conv1x1 product = product_of(dy, weight, dx);
    product.transposed = true;
    PFK_LAUNCH(frame, x.device, conv1x1, product, work_of(product));

    const int64_t columns = x.rows() * product.positions, most = (columns + kMostChunks - 1) / kMostChunks;
    const int64_t chunk = most > kChunk ? (most + 63) / 64 * 64 : kChunk;
    Conv1x1Partial partial{x.dtype,
                           (columns + chunk - 1) / chunk,
                           x.rows(),
                           product.channels,
                           product.positions,
                           chunk,
                           x.data,
                           dy.data,
                           x.row_stride,
                           dy.row_stride,
                           nullptr};
    const int64_t shape[] = {partial.rows, partial_size(partial.channels)};
    partial.partial = frame.empty(shape, 2, sums, x.device).data;
    PFK_LAUNCH(frame, x.device, conv1x1_partial, partial, chunk * partial.channels * (1 + partial.channels / 8));

    Conv1x1Reduce reduce{x.dtype,      partial.channels,
                         x.rows(),     partial.positions,
                         partial.rows, partial.partial,
                         dladj.data,   dladj.row_stride,
                         dweight.data, bias.shape[0] > 0 ? dbias.data : nullptr,
                         dterms.data};
    PFK_LAUNCH(frame, x.device, conv1x1_reduce, reduce, partial.rows * partial.channels);
    return {dx, dweight, dbias, dterms};
}

} // namespace

void expose_conv1x1(Module& module) {
    module.add<conv1x1>("conv1x1");
    module.add<conv1x1_backward>("conv1x1_backward");
}

} // namespace pfk::bind
