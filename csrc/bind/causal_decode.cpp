// causal_decode: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include <algorithm>

#include "../math/causal_decode.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "causal_decode";

// Whether there is one: nothing stands for none, with no element in dimension 1.
bool given(const Tensor& x, const Tensor& t, const char* what, const int64_t* shape, int64_t ndim) {
    require_dtype(kOp, t, what, x.dtype);
    require_same_device(kOp, x, "z", t, what);
    bool fits = t.ndim == ndim, none = t.ndim == ndim && ndim > 1 && t.shape[1] == 0;
    for (int64_t d = 0; fits && d < ndim; ++d)
        fits = t.shape[d] == shape[d];
    if (!fits && !none)
        refuse<std::invalid_argument>(kOp, ": ", what, " must be ", shape_text(shape, ndim), "; got ", shape_text(t));
    return fits && !none;
}

Outputs<2> causal_decode(Frame& frame, const Tensor& z, const Tensor& ahead, const Tensor& shift,
                         const Tensor& weak_ahead, const Tensor& weak_shift, const Tensor& guides, const Tensor& places,
                         const Tensor& rotation, const Tensor& weights, const std::vector<int64_t>& sizes, int norm,
                         bool gated, bool qk_norm, int bound, double limit, int guidance, double temperature) {
    if (z.dtype != accumulator(z.dtype))
        refuse<TypeError>(kOp, ": z must be float32 or float64; got ", name(z.dtype));
    if (z.ndim != 3 || z.shape[1] < 1 || z.shape[2] < 1)
        refuse<std::invalid_argument>(kOp, ": z must be (B, T, D); got ", shape_text(z));
    if (sizes.size() != 5 || sizes[0] < 1 || sizes[1] < 1 || sizes[2] < 1 || sizes[3] < 1 || sizes[4] < 1 ||
        sizes[0] % sizes[1] != 0 || sizes[1] % sizes[2] != 0)
        refuse<std::invalid_argument>(kOp, ": sizes must be the width, heads that divide it, heads of keys that divide "
                                           "these, hidden units and layers");
    if (weights.ndim != 1 || *std::max_element(sizes.begin(), sizes.end()) > weights.shape[0])
        refuse<std::invalid_argument>(kOp, ": weights must be (n,); got ", shape_text(weights),
                                      ", fewer than one of the sizes");
    const bool soft = bound == static_cast<int>(Bound::Softplus);
    if (bound < 0 || (bound >= kCouplingBounds && !soft) || guidance < 0 || guidance >= kGuidances || norm < 0 ||
        norm > 1)
        refuse<std::invalid_argument>(kOp, ": no such norm, bound or guidance: ", norm, ", ", bound, ", ", guidance);
    if (!(limit > 0 || (soft && limit == 0)) || limit > kLargestLimit || !(temperature > 0))
        refuse<std::invalid_argument>(kOp, ": limit must be in (0, ", kLargestLimit,
                                      "], or 0 with bound softplus, and temperature above 0; got ", limit, " and ",
                                      temperature);
    CausalDecode p{};
    p.type = z.dtype, p.rows = z.rows(), p.tokens = z.shape[1], p.features = z.shape[2];
    p.width = sizes[0], p.heads = sizes[1], p.kv_heads = sizes[2], p.hidden = sizes[3], p.depth = sizes[4];
    p.front = ahead.ndim == 3 ? ahead.shape[1] : 0;
    p.rms = norm == 1, p.eps = p.rms ? 1e-6 : 1e-5, p.gated = gated, p.qk_norm = qk_norm;
    p.bound = static_cast<Bound>(bound), p.limit = limit;
    p.guidance = static_cast<Guidance>(guidance), p.temperature = temperature;
    if (p.seen() < 1)
        refuse<std::invalid_argument>(kOp, ": expected 2 tokens or more where nothing stands in front; got 1");
    const int64_t front[] = {p.rows, p.front, p.width}, row[] = {p.rows, p.width};
    const Tensor *aheads[] = {&ahead, &weak_ahead}, *shifts[] = {&shift, &weak_shift};
    const char* names[][2] = {{"ahead", "shift"}, {"weak_ahead", "weak_shift"}};
    for (int b = 0; b < (p.guidance == Guidance::None ? 1 : 2); ++b) {
        given(z, *aheads[b], names[b][0], front, 3);
        p.ahead[b] = aheads[b]->data, p.ahead_stride[b] = aheads[b]->row_stride;
        p.shift[b] = given(z, *shifts[b], names[b][1], row, 2) ? shifts[b]->data : nullptr;
        p.shift_stride[b] = shifts[b]->row_stride;
    }
    const int64_t each[] = {p.tokens}, at_place[] = {p.seen(), p.width}, turns[] = {2, p.seen(), p.head() / 2};
    if (p.guidance != Guidance::None) {
        if (p.bound == Bound::Additive)
            refuse<std::invalid_argument>(kOp, ": guidance wants Gaussian tokens, not an additive map");
        given(z, guides, "guides", each, 1);
        if (guides.row_stride != 1)
            refuse<std::invalid_argument>(kOp, ": guides must be contiguous");
        p.guides = guides.data;
    }
    p.places = given(z, places, "places", at_place, 2) ? places.data : nullptr;
    if (given(z, rotation, "rotation", turns, 3)) {
        p.cos = rotation.data;
        p.sin = static_cast<const char*>(rotation.data) + rotation.row_stride * (z.dtype == DType::F64 ? 8 : 4);
    }
    const int64_t size[] = {weights_of(p)};
    given(z, weights, "weights", size, 1);
    if (weights.row_stride != 1 || (p.places != nullptr && places.row_stride != p.width))
        refuse<std::invalid_argument>(kOp, ": weights and places must be contiguous");
    const Tensor x = frame.empty_like(z), ladj = frame.empty(z.shape, 1, z.dtype, z.device);
    p.z = z.data, p.z_stride = z.row_stride, p.x = x.data, p.ladj = ladj.data, p.weights = weights.data;
    PFK_LAUNCH(frame, z.device, causal_decode, p, p.seen() * size[0]);
    return {x, ladj};
}

} // namespace

void expose_causal_decode(Module& module) { module.add<causal_decode>("causal_decode"); }

} // namespace pfk::bind

#endif
