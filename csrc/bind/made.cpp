// made_forward, made_inverse and their backwards, made_solve, made_dense and made_packed: checks, allocation, launch.

#include "../math/made.h"
#include "function.h"
#include "launch.h"
#include "spline.h"

namespace pfk::bind {
namespace {

constexpr int64_t kProductsPerElement = 16; // multiplications in the time of an element of a coupling, measured

// Samples of a panel: few enough that small batches occupy several threads, and that activations stay in cache.
int64_t panel_of(int64_t samples) { return samples <= 8 ? 8 : samples <= 128 ? 16 : 32; }

constexpr int64_t kMostWidth = 1 << 24; // of a layer: up to which no product of two overflows

struct Network {
    MadePlan plan;
    int64_t first, hidden; // units of the first layer, of all hidden layers
};

// map: a bound with its limit, or, after the bounds, tails with (low, high, min_width, min_height, min_slope,
// softclip).
MadeMap map_of(const char* op, int map, int bins, const Numbers& numbers, bool inverse) {
    constexpr int bounds = kBounds;
    if (map < 0 || map >= bounds + 3 || numbers.count != (map < bounds ? 1 : 6))
        refuse<std::invalid_argument>(op, ": no such map: ", map, " with ", numbers.count, " numbers");
    if (map >= bounds)
        return {Bound::None, 1, 1,
                spline_of(op, bins, map - bounds, numbers.at[0], numbers.at[1], numbers.at[2], numbers.at[3],
                          numbers.at[4], numbers.at[5], inverse)};
    const double limit = numbers.at[0];
    if (!(limit > 0 && limit <= kLargestLimit))
        refuse<std::invalid_argument>(op, ": limit must be in (0, ", kLargestLimit, "]; got ", limit);
    return {static_cast<Bound>(map), limit, 1 / limit, {}};
}

Network network_of(const char* op, const Tensor& x, const Tensor& weights, const Tensor& shift, const Indices& plan,
                   const std::vector<int64_t>& hidden, int activation, int residual, int64_t params) {
    const bool narrow = weights.dtype == DType::BF16 || weights.dtype == DType::F16;
    if (x.dtype != accumulator(x.dtype))
        refuse<TypeError>(op, ": x must be float32 or float64; got ", name(x.dtype));
    if (weights.dtype != x.dtype && !(x.dtype == DType::F32 && narrow))
        refuse<TypeError>(op, ": weights must have x's dtype (or 16 bits beside a float32 x); got x ", name(x.dtype),
                          ", weights ", name(weights.dtype));
    require_dtype(op, shift, "shift", x.dtype);
    require_same_device(op, x, "x", weights, "weights");
    require_same_device(op, x, "x", shift, "shift");
    if (!(plan.device == x.device))
        refuse<std::invalid_argument>(op, ": x and plan must be on one device; got ", name(x.device), " and ",
                                      name(plan.device));
    if (activation < 0 || activation >= kActivations || residual < 0 || residual >= kResiduals)
        refuse<std::invalid_argument>(op, ": no such activation or residual: ", activation, ", ", residual);
    if (x.ndim != 2 || x.shape[1] < 1)
        refuse<std::invalid_argument>(op, ": x must be (B, D) with D >= 1; got ", shape_text(x));
    Network network{
        {x.shape[1], static_cast<int64_t>(hidden.size()), params, plan.data}, hidden.empty() ? 0 : hidden[0], 0};
    for (const int64_t width : hidden) {
        if (width < 1 || width > kMostWidth || (residual != 0 && width != hidden[0]))
            refuse<std::invalid_argument>(op, ": hidden layers must have 1 to ", kMostWidth,
                                          " units, and equally many in a residual network; got ", width);
        network.hidden += width;
    }
    if (residual != 0 && hidden.size() % 2 != 1)
        refuse<std::invalid_argument>(op, ": a residual network has 1 + 2 k hidden layers; got ", hidden.size());
    if (plan.ndim != 1 || plan.shape[0] != network.plan.size())
        refuse<std::invalid_argument>(op, ": plan must be (", network.plan.size(), ",) for x ", shape_text(x), " and ",
                                      hidden.size(), " hidden layers; got ", shape_text(plan.shape, plan.ndim));
    if (weights.ndim != 1 || (weights.rows() > 1 && weights.row_stride != 1))
        refuse<std::invalid_argument>(op, ": weights must be packed, (n,), and contiguous; got ", shape_text(weights));
    const bool shifted = shift.ndim == 2 && shift.shape[1] != 0;
    if (shift.ndim != 2 || shift.rows() != x.rows() ||
        (shifted && shift.shape[1] != network.first && shift.shape[1] != network.hidden))
        refuse<std::invalid_argument>(op, ": shift must be (", x.rows(), ", n) with n = 0, ", network.first, " or ",
                                      network.hidden, "; got ", shape_text(shift));
    return network;
}

#ifdef PFK_BACKEND_CPU
// On the CPU the plan can be read: it must describe exactly these layers and these weights.
void require_consistent(const char* op, const Network& network, const Tensor& weights,
                        const std::vector<int64_t>& hidden) {
    const MadePlan& plan = network.plan;
    int64_t at = network.hidden + plan.features * plan.params, offset = 0;
    bool fits = true;
    std::vector<bool> placed(static_cast<size_t>(plan.features)); // a permutation: every feature once
    for (int64_t i = 0; fits && i < plan.features; ++i) {
        fits = plan.order(i) >= 0 && plan.order(i) < plan.features && !placed[static_cast<size_t>(plan.order(i))];
        if (fits)
            placed[static_cast<size_t>(plan.order(i))] = true;
    }
    for (int64_t layer = 0; layer <= plan.layers; ++layer) {
        fits = fits && plan.offset(layer) == offset;
        if (layer == plan.layers)
            break;
        const int64_t width = hidden[static_cast<size_t>(layer)];
        for (int64_t degree = 0; degree < plan.features; ++degree)
            fits = fits && plan.end(layer, degree) >= plan.end(layer, degree - 1);
        fits = fits && plan.end(layer, plan.features - 1) == width;
        offset += width;
    }
    for (int64_t block = 0; fits && block < plan.blocks(); ++block)
        for (int64_t layer = 0; layer <= plan.layers; ++layer) {
            const int64_t last = plan.last_of(block);
            const int64_t rows = plan.end(layer, last) - plan.end(layer, block * kMadeBlock - 1);
            fits = fits && plan.start(block, layer) == at;
            at += (rows + kMadeRows - 1) / kMadeRows * kMadeRows * plan.seen(layer, last);
            fits = fits && at <= weights.rows();
        }
    if (!fits || weights.rows() != at)
        refuse<std::invalid_argument>(op, ": plan and packed weights do not belong together; weights ",
                                      shape_text(weights));
}
#else
void require_consistent(const char*, const Network&, const Tensor&, const std::vector<int64_t>&) {}
#endif

Outputs<2> run(const char* op, Frame& frame, const Tensor& x, const Tensor& weights, const Tensor& shift,
               const Indices& plan, const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
               const Numbers& numbers, bool inverse) {
    const MadeMap moves = map_of(op, map, bins, numbers, inverse);
    const Network network = network_of(op, x, weights, shift, plan, hidden, activation, residual, moves.params());
    require_consistent(op, network, weights, hidden);
    Tensor y = frame.empty_like(x);
    Tensor ladj = frame.empty(x.shape, 1, x.dtype, x.device);
    const int64_t panel = panel_of(x.rows());
    Made problem{network.plan,
                 static_cast<Activation>(activation),
                 static_cast<Residual>(residual),
                 inverse,
                 moves,
                 x.dtype,
                 weights.dtype,
                 (x.rows() + panel - 1) / panel,
                 x.rows(),
                 panel,
                 x.data,
                 x.row_stride,
                 weights.data,
                 weights.rows(),
                 shift.shape[1] != 0 ? shift.data : nullptr,
                 shift.row_stride,
                 shift.shape[1],
                 y.data,
                 ladj.data,
                 network.hidden,
                 x.device.id};
    const int64_t scratch = PFK_SCRATCH(made, problem);
    if (scratch > 0)
        problem.scratch = frame.empty(&scratch, 1, x.dtype, x.device).data;
    PFK_LAUNCH(frame, x.device, made, problem, panel * problem.weights_size / kProductsPerElement);
    return {y, ladj};
}

Outputs<2> made_inverse(Frame& frame, const Tensor& z, const Tensor& weights, const Tensor& shift, const Indices& plan,
                        const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                        const Numbers& numbers) {
    return run("made_inverse", frame, z, weights, shift, plan, hidden, activation, residual, map, bins, numbers, true);
}

#ifdef PFK_BACKEND_CPU

Outputs<3> run_backward(const char* op, Frame& frame, const Tensor& x, const Tensor& weights, const Tensor& shift,
                        const Indices& plan, const Tensor& dy, const Tensor& dladj, const std::vector<int64_t>& hidden,
                        int activation, int residual, int map, int bins, const Numbers& numbers, bool inverse) {
    const MadeMap moves = map_of(op, map, bins, numbers, inverse);
    const Network network = network_of(op, x, weights, shift, plan, hidden, activation, residual, moves.params());
    require_consistent(op, network, weights, hidden);
    require_same_shape(op, x, "x", dy, "dy");
    require_dtype(op, dy, "dy", x.dtype);
    require_same_device(op, x, "x", dy, "dy");
    require_dtype(op, dladj, "dladj", x.dtype);
    require_same_device(op, x, "x", dladj, "dladj");
    if (dladj.ndim != 1 || dladj.rows() != x.rows())
        refuse<std::invalid_argument>(op, ": dladj must be (", x.rows(), ",); got ", shape_text(dladj));
    const int64_t units = network.hidden + network.plan.features * network.plan.params;
    const int64_t inputs_shape[] = {x.rows(), network.plan.features + network.hidden},
                  deltas_shape[] = {x.rows(), units};
    Tensor dx = frame.empty_like(x), dshift = frame.empty_like(shift), dweights = frame.empty_like(weights);
    const Tensor inputs = frame.empty(inputs_shape, 2, x.dtype, x.device);
    const Tensor deltas = frame.empty(deltas_shape, 2, x.dtype, x.device);
    const int64_t panel = panel_of(x.rows());
    const bool shifted = shift.shape[1] != 0;
    MadeBackward problem{network.plan,
                         static_cast<Activation>(activation),
                         static_cast<Residual>(residual),
                         inverse,
                         moves,
                         x.dtype,
                         weights.dtype,
                         (x.rows() + panel - 1) / panel,
                         x.rows(),
                         panel,
                         x.data,
                         x.row_stride,
                         weights.data,
                         weights.rows(),
                         shifted ? shift.data : nullptr,
                         shift.row_stride,
                         shift.shape[1],
                         dy.data,
                         dladj.data,
                         dy.row_stride,
                         dladj.row_stride,
                         dx.data,
                         shifted ? dshift.data : nullptr,
                         inputs.data,
                         deltas.data,
                         network.hidden};
    PFK_LAUNCH(frame, x.device, made_backward, problem, 2 * panel * problem.weights_size / kProductsPerElement);
    MadeWeights gradient{network.plan, x.dtype,     weights.dtype, network.plan.blocks() * (network.plan.layers + 1),
                         x.rows(),     inputs.data, deltas.data,   dweights.data};
    PFK_LAUNCH(frame, x.device, made_weights, gradient,
               x.rows() * problem.weights_size / gradient.rows / kProductsPerElement);
    return {dx, dweights, dshift};
}

Outputs<2> made_forward(Frame& frame, const Tensor& x, const Tensor& weights, const Tensor& shift, const Indices& plan,
                        const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                        const Numbers& numbers) {
    return run("made_forward", frame, x, weights, shift, plan, hidden, activation, residual, map, bins, numbers, false);
}

Outputs<3> made_forward_backward(Frame& frame, const Tensor& x, const Tensor& weights, const Tensor& shift,
                                 const Indices& plan, const Tensor& dy, const Tensor& dladj,
                                 const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                                 const Numbers& numbers) {
    return run_backward("made_forward", frame, x, weights, shift, plan, dy, dladj, hidden, activation, residual, map,
                        bins, numbers, false);
}

Outputs<3> made_inverse_backward(Frame& frame, const Tensor& x, const Tensor& weights, const Tensor& shift,
                                 const Indices& plan, const Tensor& dy, const Tensor& dladj,
                                 const std::vector<int64_t>& hidden, int activation, int residual, int map, int bins,
                                 const Numbers& numbers) {
    return run_backward("made_inverse", frame, x, weights, shift, plan, dy, dladj, hidden, activation, residual, map,
                        bins, numbers, true);
}

#else

// The sums over rows that the gradient through the inverse waits for, coordinate by coordinate.
Outputs<2> made_solve(Frame& frame, const Tensor& dy, const Tensor& slopes, const Tensor& rates, const Tensor& terms,
                      const Tensor& weights, const Indices& plan, const std::vector<int64_t>& hidden, int residual) {
    const char* const op = "made_solve";
    const int64_t d = dy.ndim == 2 ? dy.shape[1] : 0, params = d > 0 && rates.ndim == 2 ? rates.shape[1] / d : 0;
    const Network network = network_of(op, dy, weights, slopes, plan, hidden, 0, residual, params);
    require_same_shape(op, rates, "rates", terms, "terms");
    for (const auto& [tensor, name] : {std::pair(rates, "rates"), std::pair(terms, "terms")}) {
        require_dtype(op, tensor, name, dy.dtype);
        require_same_device(op, dy, "dy", tensor, name);
    }
    if (params < 1 || rates.rows() != dy.rows() || rates.shape[1] != d * params || slopes.shape[1] != network.hidden)
        refuse<std::invalid_argument>(op, ": rates must be (B, D params) and slopes (B, ", network.hidden, "); got dy ",
                                      shape_text(dy), ", rates ", shape_text(rates), ", slopes ", shape_text(slopes));
    const int64_t shape[] = {dy.rows(), network.hidden + rates.shape[1]};
    Tensor g = frame.empty_like(dy), deltas = frame.empty(shape, 2, dy.dtype, dy.device);
    MadeSolve problem{network.plan,
                      static_cast<Residual>(residual),
                      dy.dtype,
                      weights.dtype,
                      dy.rows(),
                      dy.data,
                      dy.row_stride,
                      slopes.data,
                      slopes.row_stride,
                      rates.data,
                      terms.data,
                      rates.row_stride,
                      terms.row_stride,
                      weights.data,
                      g.data,
                      deltas.data,
                      network.hidden,
                      dy.device.id};
    const int64_t scratch = PFK_SCRATCH(made_solve, problem);
    if (scratch > 0)
        problem.scratch = frame.empty(&scratch, 1, dy.dtype, dy.device).data;
    PFK_LAUNCH(frame, dy.device, made_solve, problem, 0);
    return {g, deltas};
}

// The problem of both ways between packed and dense weights, without their places; leaves the numbers of the dense
// form.
MadeDense repack_of(const char* op, const Tensor& weights, const Indices& plan, int64_t features,
                    const std::vector<int64_t>& hidden, int64_t params, int64_t& numbers) {
    if (weights.dtype != accumulator(weights.dtype) || weights.ndim != 1 ||
        (weights.rows() > 1 && weights.row_stride != 1))
        refuse<TypeError>(op, ": weights must be packed, (n,), float32 or float64 and contiguous; got ",
                          shape_text(weights), ", ", name(weights.dtype));
    if (features < 1 || features > kMostWidth || params < 1 || params > kMostWidth)
        refuse<std::invalid_argument>(op, ": features and params must be 1 to ", kMostWidth, "; got ", features, ", ",
                                      params);
    MadeDense problem{
        {features, static_cast<int64_t>(hidden.size()), params, plan.data}, weights.dtype, false, 0, nullptr, nullptr};
    int64_t width = features;
    numbers = 0;
    for (const int64_t rows : hidden) {
        if (rows < 1 || rows > kMostWidth)
            refuse<std::invalid_argument>(op, ": hidden layers must have 1 to ", kMostWidth, " units; got ", rows);
        problem.units += rows;
        numbers += rows * (width + 1);
        width = rows;
    }
    problem.units += features * params;
    numbers += features * params * (width + 1);
    if (plan.ndim != 1 || plan.shape[0] != problem.plan.size() || !(plan.device == weights.device))
        refuse<std::invalid_argument>(op, ": plan must be (", problem.plan.size(), ",) on ", name(weights.device),
                                      "; got ", shape_text(plan.shape, plan.ndim), " on ", name(plan.device));
    return problem;
}

Outputs<1> made_dense(Frame& frame, const Tensor& weights, const Indices& plan, int64_t features,
                      const std::vector<int64_t>& hidden, int64_t params) {
    int64_t numbers;
    MadeDense problem = repack_of("made_dense", weights, plan, features, hidden, params, numbers);
    Tensor dense = frame.empty(&numbers, 1, weights.dtype, weights.device);
    problem.packed = weights.data;
    problem.dense = dense.data;
    PFK_LAUNCH(frame, weights.device, made_dense, problem, 0);
    return {dense};
}

Outputs<1> made_packed(Frame& frame, const Tensor& dense, const Tensor& weights, const Indices& plan, int64_t features,
                       const std::vector<int64_t>& hidden, int64_t params) {
    int64_t numbers;
    MadeDense problem = repack_of("made_packed", weights, plan, features, hidden, params, numbers);
    require_dtype("made_packed", dense, "dense", weights.dtype);
    require_same_device("made_packed", weights, "weights", dense, "dense");
    if (dense.ndim != 1 || dense.rows() != numbers || (numbers > 1 && dense.row_stride != 1))
        refuse<std::invalid_argument>("made_packed: dense must be (", numbers, ",) and contiguous; got ",
                                      shape_text(dense));
    Tensor packed = frame.empty_like(weights);
    problem.packs = true;
    problem.packed = packed.data;
    problem.dense = dense.data;
    PFK_LAUNCH(frame, weights.device, made_dense, problem, 0);
    return {packed};
}

#endif

} // namespace

void expose_made(Module& module) {
    module.add<made_inverse>("made_inverse");
#ifdef PFK_BACKEND_CPU
    module.add<made_forward>("made_forward");
    module.add<made_forward_backward>("made_forward_backward");
    module.add<made_inverse_backward>("made_inverse_backward");
#else
    module.add<made_solve>("made_solve");
    module.add<made_dense>("made_dense");
    module.add<made_packed>("made_packed");
#endif
}

} // namespace pfk::bind
