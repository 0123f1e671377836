// cnf_trajectory: checks, allocation, and its launches one after the other.

#include <algorithm>

#include "../math/cnf_trajectory.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "cnf_trajectory";

void require(bool fits, const char* name, const std::string& wanted, const Tensor& t) {
    if (!fits)
        refuse<std::invalid_argument>(kOp, ": ", name, " must be ", wanted, "; got ", shape_text(t));
}

// A method from its rows, one behind the other: weights of the slopes before stage 1, 2, ..., those of the new state.
Tableau tableau_of(const Numbers& rows) {
    Tableau tableau{};
    int place = 0;
    while (place < rows.count && tableau.stages < kMostStages)
        place += ++tableau.stages;
    if (place == 0 || place != rows.count)
        refuse<std::invalid_argument>(kOp, ": method must be 1 to ", kMostStages, " rows of 1, 2, ... numbers; got ",
                                      rows.count, " numbers");
    const double* next = rows.at;
    for (int i = 1; i <= tableau.stages; ++i)
        for (int j = 0; j < i; ++j)
            (i < tableau.stages ? tableau.a[i][j] : tableau.b[j]) = *next++;
    return tableau;
}

CnfTrajectory problem_of(const Tensor& x, const Tensor& probes, const Tensor& bias, const Tensor& weights,
                         const Tensor& gates, const Tensor& shifts, int64_t width, int64_t depth, int activation,
                         const Numbers& method, int64_t steps, double step, double scale) {
    if (x.dtype != DType::F32 && x.dtype != DType::F64)
        refuse<TypeError>(kOp, ": x must be float32 or float64; got ", name(x.dtype));
    const std::pair<const char*, const Tensor*> others[] = {
        {"probes", &probes}, {"bias", &bias}, {"weights", &weights}, {"gates", &gates}, {"shifts", &shifts}};
    for (const auto& [other, tensor] : others) {
        if (tensor->dtype != x.dtype)
            refuse<TypeError>(kOp, ": ", other, " must have x's dtype, ", name(x.dtype), "; got ", name(tensor->dtype));
        require_same_device(kOp, x, "x", *tensor, other);
    }
    require(x.ndim == 2 && x.shape[1] > 0 && x.shape[1] <= kCnfWidest, "x", "(B, D)", x);
    if (std::min({width, depth, steps}) < 1 || std::max({width, depth, steps}) > kCnfMost || activation < 0 ||
        activation > 4)
        refuse<std::invalid_argument>(kOp, ": no such network: (", width, ", ", depth, ", ", activation, ", ", steps,
                                      ")");
    CnfTrajectory p{};
    p.activation = static_cast<Smooth>(activation);
    p.method = tableau_of(method);
    p.type = x.dtype;
    p.samples = x.shape[0], p.size = x.shape[1], p.width = width, p.depth = depth, p.steps = steps;
    p.step = step, p.scale = scale;
    require(probes.ndim == 3 && probes.shape[0] == p.samples && probes.shape[2] == p.size, "probes", "(B, K, D)",
            probes);
    require(bias.ndim == 2 && bias.shape[0] == p.samples && (bias.shape[1] == 0 || bias.shape[1] == width), "bias",
            "(B, 0) or (B, H)", bias);
    require(weights.ndim == 1 && weights.shape[0] == cnf_weights(p), "weights", "(all weights,)", weights);
    const int64_t outputs = cnf_outputs(p), evaluations = steps * p.method.stages;
    const std::string wanted = std::to_string(evaluations) + ", " + std::to_string(outputs) + ")";
    require(shifts.ndim == 2 && shifts.shape[0] == evaluations && shifts.shape[1] == outputs, "shifts", "(" + wanted,
            shifts);
    require(gates.ndim == 2 && (gates.shape[0] == 0 || gates.shape[0] == evaluations) && gates.shape[1] == outputs,
            "gates", "(" + wanted + " or (0, " + std::to_string(outputs) + ")", gates);
    p.probes = probes.shape[1];
    p.gated = gates.shape[0] > 0;
    p.biased = bias.shape[1] > 0;
    p.x = x.data, p.e = probes.data, p.bias = bias.data;
    p.weights = weights.data, p.gates = gates.data, p.shifts = shifts.data;
    p.x_stride = x.row_stride, p.e_stride = probes.row_stride, p.bias_stride = bias.row_stride;
    p.weights_stride = weights.row_stride, p.gates_stride = gates.row_stride, p.shifts_stride = shifts.row_stride;
    return p;
}

#ifdef PFK_BACKEND_CPU

constexpr int64_t kSumBlock = 512; // parameters that one row of the last launch adds up: kTile of csrc/cpu

// Packs the matrices and makes room for the gradients of the chunks.
void prepare(Frame& frame, CnfTrajectory& p, const Tensor& x, bool backward) {
    const int64_t packed = cnf_all_packed(p), chunks = cnf_chunks(p);
    const int64_t all = (backward ? 2 : 1) * packed + (backward ? chunks * cnf_parameters(p) : 0);
    char* memory = static_cast<char*>(frame.empty(&all, 1, x.dtype, x.device).data);
    const int64_t bytes = x.dtype == DType::F64 ? 8 : 4;
    p.packed = memory;
    p.packed_transposed = backward ? memory + packed * bytes : nullptr;
    p.partial = memory + (backward ? 2 : 1) * packed * bytes;
    p.rows = p.depth + 1;
    PFK_LAUNCH(frame, x.device, cnf_trajectory_pack, p, p.width * p.width);
    p.rows = chunks;
}

void add_up(Frame& frame, CnfTrajectory& p) {
    p.rows = (cnf_parameters(p) - 1) / kSumBlock + 1;
    PFK_LAUNCH(frame, Device{}, cnf_trajectory_sum, p, kSumBlock * (cnf_chunks(p) + 1));
}

#else // whose kernels take the matrices as they are and add up by themselves

void prepare(Frame& frame, CnfTrajectory& p, const Tensor& x, bool backward) {
    const int64_t size = backward ? PFK_SCRATCH(cnf_trajectory_backward, p) : PFK_SCRATCH(cnf_trajectory, p);
    p.panels = frame.empty(&size, 1, x.dtype, x.device).data;
}

void add_up(Frame&, CnfTrajectory&) {}

#endif

int64_t cost_of_chunk(const CnfTrajectory& p) {
    return cnf_panels_of_chunk(p) * cnf_panel(p) * p.steps * p.method.stages * cnf_weights(p) * (1 + p.probes) / 32;
}

Outputs<2> cnf_trajectory(Frame& frame, const Tensor& x, const Tensor& probes, const Tensor& bias,
                          const Tensor& weights, const Tensor& gates, const Tensor& shifts, int64_t width,
                          int64_t depth, int activation, const Numbers& method, int64_t steps, double step,
                          double scale) {
    CnfTrajectory p =
        problem_of(x, probes, bias, weights, gates, shifts, width, depth, activation, method, steps, step, scale);
    const int64_t path_shape[] = {p.samples, steps, p.size}, integrals_shape[] = {p.samples, 3};
    Tensor path = frame.empty(path_shape, 3, x.dtype, x.device);
    Tensor integrals = frame.empty(integrals_shape, 2, x.dtype, x.device);
    p.path = path.data, p.integrals = integrals.data;
    prepare(frame, p, x, false);
    PFK_LAUNCH(frame, x.device, cnf_trajectory, p, cost_of_chunk(p));
    return {path, integrals};
}

Outputs<6> cnf_trajectory_backward(Frame& frame, const Tensor& x, const Tensor& probes, const Tensor& bias,
                                   const Tensor& weights, const Tensor& gates, const Tensor& shifts, const Tensor& path,
                                   const Tensor& dpath, const Tensor& dintegrals, int64_t width, int64_t depth,
                                   int activation, const Numbers& method, int64_t steps, double step, double scale) {
    CnfTrajectory p =
        problem_of(x, probes, bias, weights, gates, shifts, width, depth, activation, method, steps, step, scale);
    require(path.ndim == 3 && path.shape[0] == p.samples && path.shape[1] == steps && path.shape[2] == p.size, "path",
            "(B, steps, D)", path);
    require_same_shape(kOp, path, "path", dpath, "dpath");
    require(dintegrals.ndim == 2 && dintegrals.shape[0] == p.samples && dintegrals.shape[1] == 3, "dintegrals",
            "(B, 3)", dintegrals);
    for (const Tensor* tensor : {&path, &dpath, &dintegrals}) {
        require_dtype(kOp, *tensor, "path, dpath and dintegrals", x.dtype);
        require_same_device(kOp, x, "x", *tensor, "path, dpath and dintegrals");
    }
    p.path = path.data, p.dpath = dpath.data, p.dintegrals = dintegrals.data;
    p.path_stride = path.row_stride, p.dpath_stride = dpath.row_stride, p.dintegrals_stride = dintegrals.row_stride;
    Outputs<6> outputs = {frame.empty_like(x),       frame.empty_like(probes), frame.empty_like(bias),
                          frame.empty_like(weights), frame.empty_like(gates),  frame.empty_like(shifts)};
    void** const gradients[] = {&p.dx, &p.de, &p.dbias, &p.dweights, &p.dgates, &p.dshifts};
    for (int i = 0; i < 6; ++i)
        *gradients[i] = outputs[i].data;
    prepare(frame, p, x, true);
    PFK_LAUNCH(frame, x.device, cnf_trajectory_backward, p, 4 * cost_of_chunk(p));
    add_up(frame, p);
    return outputs;
}

} // namespace

void expose_cnf_trajectory(Module& module) {
    module.add<cnf_trajectory>("cnf_trajectory");
    module.add<cnf_trajectory_backward>("cnf_trajectory_backward");
}

} // namespace pfk::bind
