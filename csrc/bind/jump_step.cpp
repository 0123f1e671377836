// jump_step: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include "../math/jump_step.h"
#include "function.h"
#include "launch.h"
#include "symbols.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "jump_step";
constexpr const char* kNumbers[] = {"jump", "renoise", "own"};

void require_number(const Tensor& logits, const Tensor& t, int i, JumpStep& p) {
    require_dtype(kOp, t, kNumbers[i], accumulator(logits.dtype));
    require_same_device(kOp, logits, "logits", t, kNumbers[i]);
    if (t.ndim != 2 || t.shape[0] != logits.shape[0] || (t.shape[1] != p.places && t.shape[1] != 1))
        refuse<std::invalid_argument>(kOp, ": ", kNumbers[i], " must be (", logits.shape[0], ", ", p.places, ") or (",
                                      logits.shape[0], ", 1); got ", shape_text(t));
    p.numbers[i] = t.data;
    p.row_stride[i] = t.row_stride, p.place_stride[i] = t.shape[1] == 1 ? 0 : 1;
}

// Throws where a token is to be drawn, or become noise, with chances that sum above 1.
void require_shares(const JumpStep& p) {
    Place at = Place::of(p, 0);
    for (int64_t i = 0; i < p.rows; ++i, at.step(p))
        if (const double sum = at.number(p, 0) + at.number(p, 1); sum > 1 + kRounding)
            refuse<std::invalid_argument>(kOp, ": jump + renoise must be 0 to 1; got ", sum);
}

Outputs<1> jump_step(Frame& frame, const Tensor& logits, const Indices& x, const Indices& keys, const Tensor& jump,
                     const Tensor& renoise, const Tensor& own, int64_t step, int64_t mask, bool rates,
                     double temperature, int64_t top_k, double top_p) {
    if (logits.ndim != 3 || x.ndim != 2 || logits.shape[0] != x.shape[0] || logits.shape[1] != x.shape[1])
        refuse<std::invalid_argument>(kOp, ": expected logits (B, N, K) and x (B, N); got ", shape_text(logits),
                                      " and ", shape_text(x.shape, x.ndim));
    if (keys.ndim != 1 || keys.shape[0] != x.shape[0])
        refuse<std::invalid_argument>(kOp, ": keys must be (", x.shape[0], ",), one a row; got ",
                                      shape_text(keys.shape, keys.ndim));
    if (!(x.device == logits.device) || !(keys.device == logits.device))
        refuse<std::invalid_argument>(kOp, ": logits, x and keys must be on one device; got ", name(logits.device),
                                      ", ", name(x.device), " and ", name(keys.device));
    JumpStep p{};
    p.type = logits.dtype, p.places = x.shape[1], p.size = logits.shape[2];
    p.rows = x.shape[0] * p.places;
    p.logits = logits.data, p.logits_stride = logits.row_stride, p.x = x.data, p.keys = keys.data;
    const Tensor* numbers[] = {&jump, &renoise, &own};
    for (int i = 0; i < 3; ++i)
        require_number(logits, *numbers[i], i, p);
    if (p.rows > 0 && p.size == 0)
        refuse<std::invalid_argument>(kOp, ": there is no symbol");
    require_symbols(kOp, "x", x, p.size, mask);
    require_range(kOp, kNumbers[0], jump, 0, rates ? HUGE_VAL : 1);
    require_range(kOp, kNumbers[1], renoise, 0, 1);
    require_range(kOp, kNumbers[2], own, -HUGE_VAL, HUGE_VAL);
    if (mask < 0 && !rates)
        require_shares(p);
    if (step < 0 || step >= int64_t(1) << 32)
        refuse<std::invalid_argument>(kOp, ": step must be 0 to 2^32 - 1; got ", step);
    if (!(temperature >= 0 && std::isfinite(temperature)) || !(top_p >= 0 && top_p <= 1) || top_k < 0)
        refuse<std::invalid_argument>(kOp, ": expected a finite temperature and a top_k of at least 0, and a top_p of ",
                                      "0 to 1; got ", temperature, ", ", top_k, " and ", top_p);
    p.step = static_cast<uint32_t>(step), p.mask = mask, p.rates = rates;
    p.temperature = temperature, p.top_k = top_k, p.top_p = top_p;
    const Tensor out = frame.empty_indices(x.shape, 2, logits.device);
    p.out = static_cast<int64_t*>(out.data);
    PFK_LAUNCH(frame, logits.device, jump_step, p, p.size + 32);
    return {out};
}

} // namespace

void expose_jump_step(Module& module) { module.add<jump_step>("jump_step"); }

} // namespace pfk::bind

#endif
