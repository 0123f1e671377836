// random_numbers: checks, allocation, launch.

#include "../math/random_numbers.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "random_numbers";

Outputs<1> random_numbers(Frame& frame, const Indices& keys, int64_t draws, int64_t size, int kind, bool wide) {
    if (keys.ndim != 1)
        refuse<std::invalid_argument>(kOp, ": keys must be (B,); got ", shape_text(keys.shape, keys.ndim));
    if (draws < 0 || size < 0 || kind < 0 || kind >= kRandoms)
        refuse<std::invalid_argument>(kOp, ": expected numbers of draws and of places and a kind below ", kRandoms,
                                      "; got ", draws, ", ", size, " and ", kind);
    const int64_t shape[] = {keys.shape[0], draws, size};
    const Tensor out = frame.empty(shape, 3, wide ? DType::F64 : DType::F32, keys.device);
    RandomNumbers p{out.dtype, shape[0], draws, size, static_cast<Random>(kind), keys.data, out.data};
    PFK_LAUNCH(frame, keys.device, random_numbers, p, draws * size);
    return {out};
}

} // namespace

void expose_random_numbers(Module& module) { module.add<random_numbers>("random_numbers"); }

} // namespace pfk::bind
