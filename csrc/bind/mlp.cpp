// mlp: checks, allocation, and its launches one after the other.

#ifdef PFK_BACKEND_CPU

#include "../math/mlp.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "mlp";

void require(const Tensor& x, const Tensor& t, const std::string& what, DType dtype, const int64_t* shape,
             int64_t ndim) {
    require_dtype(kOp, t, what.c_str(), dtype);
    require_same_device(kOp, x, "x", t, what.c_str());
    bool fits = t.ndim == ndim;
    for (int64_t d = 0; fits && d < ndim; ++d)
        fits = t.shape[d] == shape[d];
    if (!fits)
        refuse<std::invalid_argument>(kOp, ": ", what, " must be ", shape_text(shape, ndim), "; got ", shape_text(t));
}

Mlp problem_of(const Tensor& x, const Tensor& shift, const Tensors& parameters, int activation) {
    const int layers = parameters.count / 2;
    if (parameters.count % 2 != 0 || layers < 2 || layers > kMostLayers)
        refuse<std::invalid_argument>(kOp, ": expected the weights and biases of 2 to ", kMostLayers, " layers; got ",
                                      parameters.count, " tensors");
    if (x.dtype != accumulator(x.dtype))
        refuse<TypeError>(kOp, ": x must be float32 or float64; got ", name(x.dtype));
    if (x.ndim != 2)
        refuse<std::invalid_argument>(kOp, ": x must be (B, D); got ", shape_text(x));
    if (activation < 0 || activation >= kActivations)
        refuse<std::invalid_argument>(kOp, ": no such activation: ", activation);
    Mlp p{};
    p.type = x.dtype, p.param = parameters[0].dtype;
    const bool narrow = x.dtype == DType::F32 && (p.param == DType::BF16 || p.param == DType::F16);
    if (p.param != x.dtype && !narrow)
        refuse<TypeError>(kOp, ": weights must have x's dtype (or 16 bits beside a float32 x); got x ", name(x.dtype),
                          ", weights ", name(p.param));
    p.activation = static_cast<Activation>(activation);
    p.layers = layers;
    p.widths[0] = x.shape[1];
    for (int l = 0; l < layers; ++l) {
        const Tensor &weight = parameters[2 * l], &bias = parameters[2 * l + 1];
        const std::string number = std::to_string(l);
        p.widths[l + 1] = weight.ndim > 0 ? weight.shape[0] : 0;
        const int64_t shape[] = {p.widths[l + 1], p.widths[l]};
        require(x, weight, "weight " + number, p.param, shape, 2);
        require(x, bias, "bias " + number, p.param, shape, 1);
        p.weights[l] = weight.data, p.weight_strides[l] = weight.row_stride;
        p.biases[l] = bias.data, p.bias_strides[l] = bias.row_stride;
    }
    for (int l = 0; l <= layers; ++l)
        if (p.widths[l] < 1 || p.widths[l] > kMostUnits)
            refuse<std::invalid_argument>(kOp, ": layers must have 1 to ", kMostUnits, " units; got ", p.widths[l]);
    const int64_t shift_shape[] = {x.rows(), shift.ndim == 2 && shift.shape[1] == 0 ? 0 : p.widths[1]};
    require(x, shift, "shift", x.dtype, shift_shape, 2);
    p.samples = x.rows();
    p.x = x.data, p.x_stride = x.row_stride;
    p.shift = shift_shape[1] > 0 ? shift.data : nullptr;
    p.shift_stride = shift.row_stride;
    return p;
}

void pack(Frame& frame, const Tensor& x, Mlp& p, bool transposed) {
    p.transposed = transposed;
    const int64_t size = mlp_panels(p);
    p.panels = frame.empty(&size, 1, x.dtype, x.device).data;
    p.rows = p.layers;
    PFK_LAUNCH(frame, x.device, mlp_pack, p, size / p.layers);
    p.rows = mlp_tiles(p);
}

int64_t cost_of_tile(const Mlp& p) { return kMlpTile * mlp_panels(p) / 8; }

Outputs<2> mlp(Frame& frame, const Tensor& x, const Tensor& shift, const Tensors& parameters, int activation,
               bool keep) {
    Mlp p = problem_of(x, shift, parameters, activation);
    const int64_t shape[] = {p.samples, p.widths[p.layers]}, kept_shape[] = {p.samples, keep ? mlp_hidden(p) : 0};
    const Tensor y = frame.empty(shape, 2, x.dtype, x.device), kept = frame.empty(kept_shape, 2, x.dtype, x.device);
    p.y = y.data;
    p.kept = keep ? kept.data : nullptr;
    pack(frame, x, p, false);
    PFK_LAUNCH(frame, x.device, mlp, p, cost_of_tile(p));
    return {y, kept};
}

OutputsAndList<2> mlp_backward(Frame& frame, const Tensor& x, const Tensor& shift, const Tensors& parameters,
                               const Tensor& kept, const Tensor& dy, int activation, bool) {
    Mlp p = problem_of(x, shift, parameters, activation);
    const int64_t shape[] = {p.samples, p.widths[p.layers]}, sums[] = {mlp_groups(p), mlp_sums(p)};
    const int64_t kept_shape[] = {p.samples, mlp_hidden(p)};
    require(x, dy, "dy", x.dtype, shape, 2);
    require(x, kept, "kept", x.dtype, kept_shape, 2);
    if (kept.row_stride != kept_shape[1])
        refuse<std::invalid_argument>(kOp, ": kept must be contiguous");
    p.kept = kept.data;
    p.dy = dy.data, p.dy_stride = dy.row_stride;
    p.sums = frame.empty(sums, 2, x.dtype, x.device).data;
    OutputsAndList<2> outputs{{frame.empty_like(x), frame.empty_like(shift)}, {parameters.count, {}}};
    for (int i = 0; i < parameters.count; ++i)
        outputs.list.at[i] = frame.empty_like(parameters[i]);
    p.dx = outputs.first[0].data, p.dshift = outputs.first[1].data;
    for (int l = 0; l < p.layers; ++l)
        p.dweights[l] = outputs.list[2 * l].data, p.dbiases[l] = outputs.list[2 * l + 1].data;
    pack(frame, x, p, true);
    p.rows = mlp_groups(p);
    PFK_LAUNCH(frame, x.device, mlp_backward, p, 2 * kMlpGroup / kMlpTile * cost_of_tile(p));
    p.rows = p.layers;
    PFK_LAUNCH(frame, x.device, mlp_weights, p, mlp_groups(p) * mlp_sums(p) / p.layers);
    return outputs;
}

} // namespace

void expose_mlp(Module& module) {
    module.add<mlp>("mlp");
    module.add<mlp_backward>("mlp_backward");
}

} // namespace pfk::bind

#endif
