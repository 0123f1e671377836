// hutchinson: checks, allocation, launch.

#include "../math/hutchinson.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "hutchinson";

void require_noise(int noise) {
    if (noise != 0 && noise != 1)
        refuse<std::invalid_argument>(kOp, ": noise must be 0 (Rademacher) or 1 (Gaussian); got ", noise);
}

Hutchinson problem_of(const Tensor& images, const Indices& keys, int noise) {
    if (images.ndim != 3 || images.shape[1] < 1)
        refuse<std::invalid_argument>(kOp, ": images must be (B, K, D) with at least one probe; got ",
                                      shape_text(images));
    if (keys.ndim != 1 || keys.shape[0] != images.shape[0])
        refuse<std::invalid_argument>(kOp, ": keys must be (", images.shape[0], ",), one a row; got ",
                                      shape_text(keys.shape, keys.ndim));
    if (!(keys.device == images.device))
        refuse<std::invalid_argument>(kOp, ": images and keys must be on one device; got ", name(images.device),
                                      " and ", name(keys.device));
    require_noise(noise);
    Hutchinson p{};
    p.type = images.dtype, p.rows = images.shape[0], p.probes = images.shape[1], p.size = images.shape[2];
    p.noise = static_cast<Random>(noise), p.keys = keys.data;
    p.images = images.data, p.images_stride = images.row_stride;
    return p;
}

Outputs<2> hutchinson(Frame& frame, const Tensor& images, const Indices& keys, int noise) {
    Hutchinson p = problem_of(images, keys, noise);
    const Tensor divergence = frame.empty(images.shape, 1, accumulator(images.dtype), images.device);
    const Tensor square = frame.empty(images.shape, 1, accumulator(images.dtype), images.device);
    p.divergence = divergence.data, p.square = square.data;
    PFK_LAUNCH(frame, images.device, hutchinson, p, p.probes * p.size);
    return {divergence, square};
}

Outputs<1> hutchinson_backward(Frame& frame, const Tensor& images, const Indices& keys, const Tensor& ddivergence,
                               const Tensor& dsquare, int noise) {
    Hutchinson p = problem_of(images, keys, noise);
    for (const Tensor* t : {&ddivergence, &dsquare}) {
        require_dtype(kOp, *t, "a gradient", accumulator(images.dtype));
        require_same_device(kOp, images, "images", *t, "a gradient");
        if (t->ndim != 1 || t->shape[0] != p.rows)
            refuse<std::invalid_argument>(kOp, ": a gradient must be (", p.rows, ",); got ", shape_text(*t));
    }
    p.ddivergence = ddivergence.data, p.dsquare = dsquare.data;
    p.ddivergence_stride = ddivergence.row_stride, p.dsquare_stride = dsquare.row_stride;
    const Tensor dimages = frame.empty_like(images);
    p.out = dimages.data;
    PFK_LAUNCH(frame, images.device, hutchinson_backward, p, p.probes * p.size);
    return {dimages};
}

} // namespace

void expose_hutchinson(Module& module) {
    module.add<hutchinson>("hutchinson");
    module.add<hutchinson_backward>("hutchinson_backward");
}

} // namespace pfk::bind
