// align: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include "../math/align.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "align";

Outputs<3> align(Frame& frame, const Indices& x0, const Indices& x1, const Indices& lengths0, const Indices& lengths1,
                 const Indices& keys) {
    if (x0.ndim != 2 || x1.ndim != 2 || x0.shape[0] != x1.shape[0] || !(x0.device == x1.device))
        refuse<std::invalid_argument>(kOp, ": expected x0 (B, N0) and x1 (B, N1) on one device; got ",
                                      shape_text(x0.shape, x0.ndim), " on ", name(x0.device), " and ",
                                      shape_text(x1.shape, x1.ndim), " on ", name(x1.device));
    for (const Indices* one : {&lengths0, &lengths1, &keys}) {
        const char* const what = one == &keys ? "keys" : one == &lengths0 ? "lengths0" : "lengths1";
        if (one->ndim != 1 || one->shape[0] != x0.shape[0] || !(one->device == x0.device))
            refuse<std::invalid_argument>(kOp, ": ", what, " must be (", x0.shape[0], ",), one a row, on ",
                                          name(x0.device), "; got ", shape_text(one->shape, one->ndim), " on ",
                                          name(one->device));
    }
    const int64_t n0 = x0.shape[1], n1 = x1.shape[1], shape[] = {x0.shape[0], n0 + n1};
    const Tensor z0 = frame.empty_indices(shape, 2, x0.device), z1 = frame.empty_indices(shape, 2, x0.device);
    const Tensor distance = frame.empty_indices(shape, 1, x0.device);
    Align p{shape[0],
            n0,
            n1,
            x0.data,
            x1.data,
            lengths0.data,
            lengths1.data,
            keys.data,
            static_cast<int64_t*>(z0.data),
            static_cast<int64_t*>(z1.data),
            static_cast<int64_t*>(distance.data)};
    PFK_LAUNCH(frame, x0.device, align, p, (n0 / 8 + 16) * (n1 / 8 + 16));
    return {z0, z1, distance};
}

} // namespace

void expose_align(Module& module) { module.add<align>("align"); }

} // namespace pfk::bind

#endif
