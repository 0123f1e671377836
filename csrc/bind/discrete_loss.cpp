// discrete_loss: checks, allocation, launch.

#ifdef PFK_BACKEND_CPU

#include "../math/discrete_loss.h"
#include "function.h"
#include "launch.h"
#include "symbols.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "discrete_loss";

DiscreteLoss problem_of(const Tensor& logits, const Indices& x_t, const Indices& x1, bool elbo, int64_t mask) {
    const auto fits = [&](const Indices& x) {
        return logits.ndim == 3 && x.ndim == 2 && x.shape[0] == logits.shape[0] && x.shape[1] == logits.shape[1];
    };
    if (!fits(x_t) || !fits(x1))
        refuse<std::invalid_argument>(kOp, ": expected logits (B, N, K), x_t and x1 (B, N); got ", shape_text(logits),
                                      ", ", shape_text(x_t.shape, x_t.ndim), " and ", shape_text(x1.shape, x1.ndim));
    if (!(x_t.device == logits.device) || !(x1.device == logits.device))
        refuse<std::invalid_argument>(kOp, ": logits, x_t and x1 must be on one device; got ", name(logits.device),
                                      ", ", name(x_t.device), " and ", name(x1.device));
    DiscreteLoss p{};
    p.type = logits.dtype, p.places = logits.shape[1], p.size = logits.shape[2];
    p.rows = logits.shape[0] * p.places;
    if (p.rows > 0 && p.size == 0)
        refuse<std::invalid_argument>(kOp, ": there is no symbol");
    p.logits = logits.data, p.logits_stride = logits.row_stride;
    p.x_t = x_t.data, p.x1 = x1.data, p.elbo = elbo, p.mask = mask;
    return p;
}

Outputs<2> discrete_loss(Frame& frame, const Tensor& logits, const Indices& x_t, const Indices& x1, bool elbo,
                         int64_t mask) {
    DiscreteLoss p = problem_of(logits, x_t, x1, elbo, mask);
    require_symbols(kOp, "x_t", x_t, p.size, mask, &x1);
    require_symbols(kOp, "x1", x1, p.size, -1, &x1);
    require_no_mask(kOp, "x1", x1, mask);
    const int64_t shape[] = {logits.shape[0], logits.shape[1], kSums};
    const Tensor loss = frame.empty(shape, 2, accumulator(logits.dtype), logits.device);
    const Tensor sums = frame.empty(shape, 3, accumulator(logits.dtype), logits.device);
    p.loss = loss.data, p.sums = sums.data, p.sums_stride = p.places * kSums;
    PFK_LAUNCH(frame, logits.device, discrete_loss, p, p.size);
    return {loss, sums};
}

// `dsums` is of no account: the sums are there for this.
Outputs<1> discrete_loss_backward(Frame& frame, const Tensor& logits, const Indices& x_t, const Indices& x1,
                                  const Tensor& sums, const Tensor& dloss, const Tensor& dsums, bool elbo, int64_t mask,
                                  Inplace inplace) {
    static_cast<void>(dsums);
    DiscreteLoss p = problem_of(logits, x_t, x1, elbo, mask);
    for (const Tensor* t : {&sums, &dloss}) {
        require_dtype(kOp, *t, t == &sums ? "the sums" : "the gradient", accumulator(logits.dtype));
        require_same_device(kOp, logits, "logits", *t, t == &sums ? "the sums" : "the gradient");
    }
    if (sums.ndim != 3 || sums.shape[0] != logits.shape[0] || sums.shape[1] != logits.shape[1] ||
        sums.shape[2] != kSums)
        refuse<std::invalid_argument>(kOp, ": the sums must be (", logits.shape[0], ", ", logits.shape[1], ", ", kSums,
                                      "); got ", shape_text(sums));
    if (dloss.ndim != 2 || dloss.shape[0] != logits.shape[0] || dloss.shape[1] != logits.shape[1])
        refuse<std::invalid_argument>(kOp, ": the gradient must be (", logits.shape[0], ", ", logits.shape[1],
                                      "); got ", shape_text(dloss));
    p.sums = sums.data, p.sums_stride = sums.row_stride;
    p.dloss = dloss.data, p.dloss_stride = dloss.row_stride;
    const Tensor dlogits = inplace.wanted ? logits : frame.empty_like(logits);
    p.dlogits = dlogits.data, p.dlogits_stride = dlogits.row_stride;
    PFK_LAUNCH(frame, logits.device, discrete_loss_backward, p, p.size);
    return {dlogits};
}

} // namespace

void expose_discrete_loss(Module& module) {
    module.add<discrete_loss>("discrete_loss");
    module.add<discrete_loss_backward>("discrete_loss_backward");
}

} // namespace pfk::bind

#endif
