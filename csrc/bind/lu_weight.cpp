// lu_weight: checks, allocation, launch.

#include "../math/lu_weight.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "lu_weight";

void require_indices(const Tensor& lu, const Indices& indices, const char* indices_name) {
    if (indices.ndim != 2 || indices.shape[0] != lu.shape[0] || indices.shape[1] != lu.shape[1])
        refuse<std::invalid_argument>(kOp, ": ", indices_name, " must be ", shape_text(lu.shape, 2), " for lu ",
                                      shape_text(lu), "; got ", shape_text(indices.shape, indices.ndim));
    if (!(indices.device == lu.device))
        refuse<std::invalid_argument>(kOp, ": lu and ", indices_name, " must be on one device; got ", name(lu.device),
                                      " and ", name(indices.device));
}

void require_arguments(const Tensor& lu, const Indices& permutation, const Indices& signs) {
    if (lu.ndim != 3 || lu.shape[1] != lu.shape[2])
        refuse<std::invalid_argument>(kOp, ": lu must be (N, C, C); got ", shape_text(lu));
    require_indices(lu, permutation, "permutation");
    require_indices(lu, signs, "signs");
    if (kDevice != Device::CPU) // elsewhere the values cannot be seen from here
        return;
    for (int64_t i = 0; i < lu.shape[0] * lu.shape[1]; ++i)
        if (permutation.data[i] < 0 || permutation.data[i] >= lu.shape[1])
            refuse<std::invalid_argument>(kOp, ": permutation must lie in [0, ", lu.shape[1], "); got ",
                                          permutation.data[i]);
}

double* scratch(Frame& frame, const Tensor& lu, int64_t matrices) {
    const int64_t shape[] = {lu.shape[0], matrices * lu.shape[1] * lu.shape[1]};
    return static_cast<double*>(frame.empty(shape, 2, DType::F64, lu.device).data);
}

Outputs<2> lu_weight(Frame& frame, const Tensor& lu, const Indices& permutation, const Indices& signs, bool inverse) {
    require_arguments(lu, permutation, signs);
    const Tensor weight = frame.empty(lu.shape, 3, accumulator(lu.dtype), lu.device);
    const Tensor terms = frame.empty(lu.shape, 2, accumulator(lu.dtype), lu.device);
    LuWeight problem{lu.dtype,   lu.rows(), lu.shape[1], lu.data,    lu.row_stride,        permutation.data,
                     signs.data, inverse,   weight.data, terms.data, scratch(frame, lu, 2)};
    PFK_LAUNCH(frame, lu.device, lu_weight, problem, problem.size * problem.size * (1 + problem.size / 8));
    return {weight, terms};
}

Outputs<1> lu_weight_backward(Frame& frame, const Tensor& lu, const Tensor& weight, const Indices& permutation,
                              const Indices& signs, const Tensor& dweight, const Tensor& dterms, bool inverse) {
    require_arguments(lu, permutation, signs);
    require_same_shape(kOp, lu, "lu", weight, "weight");
    require_same_shape(kOp, lu, "lu", dweight, "dweight");
    for (const Tensor* t : {&weight, &dweight, &dterms}) {
        require_dtype(kOp, *t, "weight or a gradient", accumulator(lu.dtype));
        require_same_device(kOp, lu, "lu", *t, "weight or a gradient");
    }
    if (dterms.ndim != 2 || dterms.shape[0] != lu.shape[0] || dterms.shape[1] != lu.shape[1])
        refuse<std::invalid_argument>(kOp, ": dterms must be ", shape_text(lu.shape, 2), "; got ", shape_text(dterms));
    const Tensor dlu = frame.empty_like(lu);
    LuWeightBackward problem{lu.dtype,           lu.rows(),         lu.shape[1], lu.data,
                             lu.row_stride,      permutation.data,  signs.data,  inverse,
                             weight.data,        dweight.data,      dterms.data, weight.row_stride,
                             dweight.row_stride, dterms.row_stride, dlu.data,    scratch(frame, lu, 4)};
    PFK_LAUNCH(frame, lu.device, lu_weight_backward, problem, problem.size * problem.size * (1 + problem.size / 8));
    return {dlu};
}

} // namespace

void expose_lu_weight(Module& module) {
    module.add<lu_weight>("lu_weight");
    module.add<lu_weight_backward>("lu_weight_backward");
}

} // namespace pfk::bind
