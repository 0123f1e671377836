// apply_edits: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include "../math/apply_edits.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "apply_edits";

Outputs<3> apply_edits(Frame& frame, const Indices& instead, const Indices& insert, const Indices& lengths,
                       int64_t limit, int64_t pad) {
    if (instead.ndim != 2 || insert.ndim != 2 || instead.shape[0] != insert.shape[0] ||
        instead.shape[1] != insert.shape[1] || !(instead.device == insert.device))
        refuse<std::invalid_argument>(kOp, ": expected x and its edits (B, N) on one device; got ",
                                      shape_text(instead.shape, instead.ndim), " on ", name(instead.device), " and ",
                                      shape_text(insert.shape, insert.ndim), " on ", name(insert.device));
    if (lengths.ndim != 1 || lengths.shape[0] != instead.shape[0] || !(lengths.device == instead.device))
        refuse<std::invalid_argument>(kOp, ": lengths must be (", instead.shape[0], ",), one a row, on ",
                                      name(instead.device), "; got ", shape_text(lengths.shape, lengths.ndim), " on ",
                                      name(lengths.device));
    if (limit < instead.shape[1])
        refuse<std::invalid_argument>(kOp, ": limit must be at least the ", instead.shape[1], " places of x; got ",
                                      limit);
    const int64_t shape[] = {instead.shape[0], limit};
    const Tensor values = frame.empty_indices(shape, 2, instead.device);
    const Tensor after = frame.empty_indices(shape, 1, instead.device);
    const Tensor dropped = frame.empty_indices(shape, 1, instead.device);
    ApplyEdits p{shape[0],
                 instead.shape[1],
                 limit,
                 pad,
                 instead.data,
                 insert.data,
                 lengths.data,
                 static_cast<int64_t*>(values.data),
                 static_cast<int64_t*>(after.data),
                 static_cast<int64_t*>(dropped.data)};
    PFK_LAUNCH(frame, instead.device, apply_edits, p, limit + p.places);
    return {values, after, dropped};
}

} // namespace

void expose_apply_edits(Module& module) { module.add<apply_edits>("apply_edits"); }

} // namespace pfk::bind

#endif
