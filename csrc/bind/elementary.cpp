// elementary: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include "../cpu/elementary.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

Outputs<1> elementary(Frame& frame, const Tensor& x, int function) {
    if (function < 0 || function > 5 || x.dtype != accumulator(x.dtype) || x.ndim != 1 || x.row_stride != 1)
        refuse<std::invalid_argument>("elementary: function 0..5 of a contiguous float32 or float64 tensor (n,)");
    const Tensor y = frame.empty_like(x);
    Elementary problem{function, x.dtype, x.rows(), x.data, y.data};
    PFK_LAUNCH(frame, x.device, elementary, problem, 8);
    return {y};
}

} // namespace

void expose_elementary(Module& module) { module.add<elementary>("_elementary"); }

} // namespace pfk::bind

#endif
