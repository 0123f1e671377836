// assignment, of costs and of points: checks, allocation, launch.

#include "../math/assignment.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {

namespace {

#ifdef PFK_BACKEND_CPU
constexpr bool kScratch = false;
#else
constexpr bool kScratch = true;
#endif

Outputs<4> run(Frame& frame, const Tensor& x0, const Tensor& x1, int64_t dims) {
    const int64_t shape[] = {x0.shape[0], x0.shape[1]};
    const Tensor columns = frame.empty_indices(shape, 2, x0.device),
                 total = frame.empty(shape, 1, DType::F64, x0.device),
                 row_prices = frame.empty(shape, 2, DType::F64, x0.device),
                 column_prices = frame.empty(shape, 2, DType::F64, x0.device);
    double* scratch = nullptr;
    const int64_t made = dims > 0 ? shape[1] * shape[1] : 0; // costs of a problem; 3 size ints lie in 2 size doubles
    if (kScratch) {
        const int64_t doubles[] = {shape[0], made + 3 * shape[1]};
        scratch = static_cast<double*>(frame.empty(doubles, 2, DType::F64, x0.device).data);
    }
    double *const distances = kScratch ? scratch + shape[0] * made : nullptr, *const marks =
                                                                                  kScratch
                                                                                      ? distances + shape[0] * shape[1]
                                                                                      : nullptr;
    Assignment problem{x0.dtype,
                       shape[0],
                       shape[1],
                       dims,
                       x0.data,
                       x1.data,
                       x0.row_stride,
                       x1.row_stride,
                       static_cast<int64_t*>(columns.data),
                       static_cast<double*>(total.data),
                       static_cast<double*>(row_prices.data),
                       static_cast<double*>(column_prices.data),
                       scratch,
                       distances,
                       reinterpret_cast<int*>(marks)};
    PFK_LAUNCH(frame, x0.device, assignment, problem, shape[1] * shape[1] * 16);
    return {columns, total, row_prices, column_prices};
}

Outputs<4> assignment(Frame& frame, const Tensor& cost) {
    if (cost.ndim != 3 || cost.shape[1] != cost.shape[2])
        refuse<std::invalid_argument>("assignment: cost must be (G, B, B); got ", shape_text(cost));
    return run(frame, cost, cost, 0);
}

Outputs<4> assignment_of_points(Frame& frame, const Tensor& x0, const Tensor& x1) {
    constexpr const char* op = "assignment_of_points";
    if (x0.ndim != 3 || x0.shape[2] < 1)
        refuse<std::invalid_argument>(op, ": x0 must be (G, B, D), D at least 1; got ", shape_text(x0));
    require_same_shape(op, x0, "x0", x1, "x1");
    require_dtype(op, x1, "x1", x0.dtype);
    require_same_device(op, x0, "x0", x1, "x1");
    return run(frame, x0, x1, x0.shape[2]);
}

} // namespace

void expose_assignment(Module& module) {
    module.add<assignment>("assignment");
    module.add<assignment_of_points>("assignment_of_points");
}

} // namespace pfk::bind
