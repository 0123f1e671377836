// drift: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include "../math/drift.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "drift";

// Points y and x, and the rates.
template <class Problem>
Problem problem_of(const Tensor& y, const Tensor& x, const Tensor& apart, const Tensor& rates, int64_t own,
                   int64_t data, bool squares, bool turned = false) {
    if (y.ndim != 2 || x.ndim != 2 || y.shape[1] != x.shape[1])
        refuse<std::invalid_argument>(kOp, ": expected y (B, D) and x (N, D); got ", shape_text(y), " and ",
                                      shape_text(x));
    require_dtype(kOp, x, "x", y.dtype);
    require_dtype(kOp, rates, "rates", DType::F64);
    require_same_device(kOp, y, "y", x, "x");
    require_same_device(kOp, y, "y", rates, "rates");
    require_dtype(kOp, apart, "apart", accumulator(y.dtype));
    require_same_device(kOp, y, "y", apart, "apart");
    const Tensor &rows = turned ? x : y, &columns = turned ? y : x;
    if (apart.ndim != 2 || apart.shape[0] != rows.shape[0] ||
        (apart.shape[1] != 0 && apart.shape[1] != columns.shape[0]))
        refuse<std::invalid_argument>(kOp, ": apart must be (", rows.shape[0], ", ", columns.shape[0], ") or (",
                                      rows.shape[0], ", 0); got ", shape_text(apart));
    if (rates.ndim != 1)
        refuse<std::invalid_argument>(kOp, ": rates must be (T,); got ", shape_text(rates));
    if (data < 0 || data > x.shape[0])
        refuse<std::invalid_argument>(kOp, ": expected 0 to ", x.shape[0], " points of the data; got ", data);
    Problem p{};
    p.type = y.dtype, p.rows = y.shape[0], p.others = x.shape[0], p.size = y.shape[1];
    p.count = rates.shape[0], p.own = own, p.data = data, p.squares = squares;
    p.y = y.data, p.y_stride = y.row_stride, p.x = x.data, p.x_stride = x.row_stride;
    p.rates = static_cast<const double*>(rates.data);
    p.apart = apart.shape[1] == 0 ? nullptr : apart.data, p.apart_stride = apart.row_stride;
    p.turned = turned && p.apart != nullptr;
    return p;
}

void require_logs(const Tensor& t, const char* what, int64_t rows, const Tensor& like, int64_t count) {
    require_dtype(kOp, t, what, accumulator(like.dtype));
    require_same_device(kOp, like, "y", t, what);
    if (t.ndim != 2 || t.shape[0] != rows || t.shape[1] != count)
        refuse<std::invalid_argument>(kOp, ": ", what, " must be (", rows, ", ", count, "); got ", shape_text(t));
}

Outputs<3> drift_sums(Frame& frame, const Tensor& y, const Tensor& x, const Tensor& apart, const Tensor& rates,
                      int64_t own, int64_t data, bool squares, bool keep, bool turned) {
    DriftSums p = problem_of<DriftSums>(y, x, apart, rates, own, data, squares, turned);
    const int64_t shape[] = {p.rows, 2, p.count};
    const Tensor logs = frame.empty(shape, 3, accumulator(y.dtype), y.device);
    const Tensor totals = frame.empty(shape, 1, accumulator(y.dtype), y.device);
    const int64_t pairs[] = {p.rows, keep ? p.others : 0};
    const Tensor found = frame.empty(pairs, 2, accumulator(y.dtype), y.device);
    p.logs = logs.data, p.totals = totals.data, p.found = keep ? found.data : nullptr;
    PFK_LAUNCH(frame, y.device, drift_sums, p, p.others * (p.size + 8 * p.count));
    return {logs, totals, found};
}

Outputs<1> drift(Frame& frame, const Tensor& y, const Tensor& x, const Tensor& apart, const Tensor& rates,
                 const Tensor& left, const Tensor& right, int64_t own, int64_t data, bool squares) {
    Drift p = problem_of<Drift>(y, x, apart, rates, own, data, squares);
    require_logs(left, "left", p.rows, y, p.count), require_logs(right, "right", p.others, y, p.count);
    p.left = left.data, p.left_stride = left.row_stride, p.right = right.data, p.right_stride = right.row_stride;
    const int64_t shape[] = {p.count, p.rows, p.size};
    const Tensor forces = frame.empty(shape, 3, accumulator(y.dtype), y.device);
    p.forces = forces.data;
    PFK_LAUNCH(frame, y.device, drift, p, p.others * (p.size + (8 + p.size) * p.count));
    return {forces};
}

} // namespace

void expose_drift(Module& module) {
    module.add<drift_sums>("drift_sums");
    module.add<drift>("drift");
}

} // namespace pfk::bind

#endif
