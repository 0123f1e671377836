// sinkhorn: checks, allocation, launch.

#include "../math/sinkhorn.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "sinkhorn";

void require(const Tensor& t, const char* what, const Tensor& like, int64_t rows, int64_t columns, DType type) {
    require_dtype(kOp, t, what, type);
    require_same_device(kOp, like, "x0", t, what);
    if (t.ndim != 2 || t.shape[0] != rows || t.shape[1] != columns)
        refuse<std::invalid_argument>(kOp, ": ", what, " must be (", rows, ", ", columns, "); got ", shape_text(t));
}

// Points x0 and x1, or costs alone, and reg.
template <class Problem> Problem problem_of(const Tensor& x0, const Tensors& x1, double reg) {
    if (x0.ndim != 3 || x1.count > 1 ||
        (x1.count == 1 && (x1[0].ndim != 3 || x1[0].shape[0] != x0.shape[0] || x1[0].shape[2] != x0.shape[2])))
        refuse<std::invalid_argument>(kOp, ": expected x0 (G, B, D) and x1 (G, N, D), or costs (G, B, N) alone; got ",
                                      shape_text(x0), x1.count > 0 ? " and " + shape_text(x1[0]) : std::string());
    if (!(reg > 0) || reg > 1e300)
        refuse<std::invalid_argument>(kOp, ": reg must be finite and above 0; got ", reg);
    Problem p{};
    p.type = x0.dtype, p.rows = x0.shape[0], p.sources = x0.shape[1], p.size = x0.shape[2], p.reg = reg;
    p.x0 = x0.data, p.x0_stride = x0.row_stride;
    p.given = x1.count == 0, p.targets = p.size;
    if (!p.given) {
        require_dtype(kOp, x1[0], "x1", x0.dtype);
        require_same_device(kOp, x0, "x0", x1[0], "x1");
        p.targets = x1[0].shape[1], p.x1 = x1[0].data, p.x1_stride = x1[0].row_stride;
    }
    return p;
}

Outputs<3> sinkhorn(Frame& frame, const Tensor& x0, const Tensors& x1, const Tensor& a, const Tensor& b,
                    const Tensor& f, const Tensor& g, const Tensor& state, double reg, double reg_m, double tolerance,
                    int64_t most, int64_t steps) {
    Sinkhorn p = problem_of<Sinkhorn>(x0, x1, reg);
    const DType type = accumulator(x0.dtype);
    require(a, "a", x0, p.rows, p.sources, type), require(b, "b", x0, p.rows, p.targets, type);
    require(f, "f", x0, p.rows, p.sources, type), require(g, "g", x0, p.rows, p.targets, type);
    require(state, "state", x0, p.rows, kSinkhornState, DType::F64);
    if (!(reg_m > 0) || !(tolerance >= 0) || most < 0 || steps < 0 || most > kMostSteps)
        refuse<std::invalid_argument>(kOp, ": expected reg_m above 0, a tolerance, most steps up to ", kMostSteps,
                                      " and steps; got ", reg_m, ", ", tolerance, ", ", most, " and ", steps);
    p.a = a.data, p.a_stride = a.row_stride, p.b = b.data, p.b_stride = b.row_stride;
    p.f0 = f.data, p.f0_stride = f.row_stride, p.g0 = g.data, p.g0_stride = g.row_stride;
    p.state0 = static_cast<const double*>(state.data), p.state0_stride = state.row_stride;
    p.reg_m = reg_m, p.tolerance = tolerance, p.most = most, p.steps = steps;
    const Tensor f1 = frame.empty_like(f), g1 = frame.empty_like(g), state1 = frame.empty_like(state);
    p.f = f1.data, p.g = g1.data, p.state = static_cast<double*>(state1.data);
    const int64_t scratch = PFK_SCRATCH(sinkhorn, p);
    if (scratch > 0)
        p.scratch = static_cast<double*>(frame.empty(&scratch, 1, DType::F64, x0.device).data);
    PFK_LAUNCH(frame, x0.device, sinkhorn, p, p.sources * p.targets);
    return {f1, g1, state1};
}

Outputs<1> sinkhorn_draw(Frame& frame, const Tensor& x0, const Tensors& x1, const Tensor& b, const Tensor& g,
                         const Tensor& uniform, double reg) {
    SinkhornDraw p = problem_of<SinkhornDraw>(x0, x1, reg);
    const DType type = accumulator(x0.dtype);
    require(b, "b", x0, p.rows, p.targets, type), require(g, "g", x0, p.rows, p.targets, type);
    require(uniform, "uniform", x0, p.rows, p.sources, DType::F64);
    if (p.targets == 0 && p.rows * p.sources > 0)
        refuse<std::invalid_argument>(kOp, ": there is no target to draw from");
    p.b = b.data, p.b_stride = b.row_stride, p.g = g.data, p.g_stride = g.row_stride;
    p.uniform = static_cast<const double*>(uniform.data), p.uniform_stride = uniform.row_stride;
    const Tensor index = frame.empty_indices(uniform.shape, 2, x0.device);
    p.index = static_cast<int64_t*>(index.data);
    PFK_LAUNCH(frame, x0.device, sinkhorn_draw, p, p.sources * p.targets);
    return {index};
}

} // namespace

void expose_sinkhorn(Module& module) {
    module.add<sinkhorn>("sinkhorn");
    module.add<sinkhorn_draw>("sinkhorn_draw");
}

} // namespace pfk::bind
