// attention: checks, allocation, launches.

#ifdef PFK_BACKEND_CPU

#include <algorithm>

#include "../math/attention.h"
#include "function.h"
#include "launch.h"

namespace pfk::bind {
namespace {

constexpr const char* kOp = "attention";
constexpr int64_t kProducts = 8; // multiplications and additions in the time in which a number is copied

void require(const Tensor& q, const Tensor& t, const char* t_name, DType dtype, std::initializer_list<int64_t> shape) {
    require_dtype(kOp, t, t_name, dtype);
    require_same_device(kOp, q, "q", t, t_name);
    const int64_t ndim = static_cast<int64_t>(shape.size());
    if (!std::equal(shape.begin(), shape.end(), t.shape, t.shape + t.ndim))
        refuse<std::invalid_argument>(kOp, ": ", t_name, " must be ", shape_text(shape.begin(), ndim), "; got ",
                                      shape_text(t));
}

Heads values(const Tensor& t) { return {t.data, t.row_stride, 1, t.shape[2], t.ndim > 3 ? t.shape[3] : 1}; }
Heads tangents(const Tensor& t) { return {t.data, t.row_stride, t.shape[1], t.shape[3], t.ndim > 4 ? t.shape[4] : 1}; }

Attention problem_of(const Tensor& q, const Tensor& k, const Tensor& v, const Indices& mask, bool causal,
                     double scale) {
    if (q.ndim != 4 || k.ndim != 4 || v.ndim != 4)
        refuse<std::invalid_argument>(kOp, ": q, k and v must be (B, H, T, d), (B, H, S, d) and (B, H, S, e); got ",
                                      shape_text(q), ", ", shape_text(k), ", ", shape_text(v));
    require(q, k, "k", q.dtype, {q.shape[0], q.shape[1], k.shape[2], q.shape[3]});
    require(q, v, "v", q.dtype, {q.shape[0], q.shape[1], k.shape[2], v.shape[3]});
    if (mask.ndim != 2 || mask.shape[0] != q.shape[0] || (mask.shape[1] != 0 && mask.shape[1] != k.shape[2]))
        refuse<std::invalid_argument>(kOp, ": mask must be (", q.shape[0], ", ", k.shape[2], "); got ",
                                      shape_text(mask.shape, mask.ndim));
    if (!(mask.device == q.device))
        refuse<std::invalid_argument>(kOp, ": q and mask must be on one device; got ", name(q.device), " and ",
                                      name(mask.device));
    Attention p{};
    p.type = q.dtype, p.causal = causal, p.scale = scale, p.events = q.shape[0], p.heads = q.shape[1];
    p.q = values(q), p.k = values(k), p.v = values(v);
    p.mask = mask.shape[1] == 0 ? nullptr : mask.data;
    return p;
}

void set_tangents(Attention& p, const Tensor& q, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
    for (const Tensor* t : {&dq, &dk, &dv})
        p.tangents = std::max(p.tangents, t->ndim == 5 ? t->shape[1] : 0);
    const auto set = [&](Heads& to, const Tensor& t, const char* t_name, const Heads& like) {
        const int64_t number = t.ndim == 5 && t.shape[1] == 0 ? 0 : p.tangents; // (B, 0, ...): it stands still
        require(q, t, t_name, p.type, {p.events, number, p.heads, like.length, like.size});
        to = tangents(t);
    };
    set(p.vq, dq, "dq", p.q), set(p.vk, dk, "dk", p.k), set(p.vv, dv, "dv", p.v);
}

void set_outputs(Attention& p, const Tensor& q, const Tensor& y, const Tensor& lse) {
    require(q, y, "y", p.type, {p.events, p.heads, p.q.length, p.v.size});
    require(q, lse, "lse", accumulator(p.type), {p.events, p.heads, p.q.length});
    p.y = values(y), p.lse = values(lse);
}

void set_images(Attention& p, const Tensor& q, const Tensor& dy, const Tensor& dlse) {
    require(q, dy, "dy", p.type, {p.events, p.tangents, p.heads, p.q.length, p.v.size});
    require(q, dlse, "dlse", accumulator(p.type), {p.events, p.tangents, p.heads, p.q.length});
    p.vy = tangents(dy), p.vlse = tangents(dlse);
}

Outputs<2> new_outputs(Frame& frame, const Attention& p, const Tensor& q) {
    const int64_t shape[] = {p.events, p.heads, p.q.length, p.v.size};
    return {frame.empty(shape, 4, p.type, q.device), frame.empty(shape, 3, accumulator(p.type), q.device)};
}

Outputs<2> new_images(Frame& frame, const Attention& p, const Tensor& q) {
    const int64_t shape[] = {p.events, p.tangents, p.heads, p.q.length, p.v.size};
    return {frame.empty(shape, 5, p.type, q.device), frame.empty(shape, 4, accumulator(p.type), q.device)};
}

// Multiplications and additions of a query with the keys: of its scores, its values, and both for each tangent.
int64_t cost_of(const Attention& p) { return p.k.length * (p.q.size + p.v.size) * (1 + 2 * p.tangents) / kProducts; }

void split_queries(Attention& p) { p.rows = p.events * p.heads * ((p.q.length + kQueries - 1) / kQueries); }

Outputs<2> attention(Frame& frame, const Tensor& q, const Tensor& k, const Tensor& v, const Indices& mask, bool causal,
                     double scale) {
    Attention p = problem_of(q, k, v, mask, causal, scale);
    const Outputs<2> outputs = new_outputs(frame, p, q);
    set_outputs(p, q, outputs[0], outputs[1]);
    split_queries(p);
    PFK_LAUNCH(frame, q.device, attention, p, kQueries * cost_of(p));
    return outputs;
}

Outputs<4> attention_tangents(Frame& frame, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dq,
                              const Tensor& dk, const Tensor& dv, const Indices& mask, bool causal, double scale) {
    Attention p = problem_of(q, k, v, mask, causal, scale);
    set_tangents(p, q, dq, dk, dv);
    const Outputs<2> outputs = new_outputs(frame, p, q), images = new_images(frame, p, q);
    set_outputs(p, q, outputs[0], outputs[1]);
    set_images(p, q, images[0], images[1]);
    split_queries(p);
    PFK_LAUNCH(frame, q.device, attention, p, kQueries * cost_of(p));
    return {outputs[0], outputs[1], images[0], images[1]};
}

Outputs<3> attention_backward(Frame& frame, const Tensor& q, const Tensor& k, const Tensor& v, const Indices& mask,
                              const Tensor& y, const Tensor& lse, const Tensor& gy, const Tensor& glse, bool causal,
                              double scale) {
    Attention p = problem_of(q, k, v, mask, causal, scale);
    set_outputs(p, q, gy, glse); // the same checks
    p.gy = p.y, p.glse = p.lse;
    set_outputs(p, q, y, lse);
    const Tensor gq = frame.empty_like(q), gk = frame.empty_like(k), gv = frame.empty_like(v);
    p.gq = values(gq), p.gk = values(gk), p.gv = values(gv);
    p.rows = p.events * p.heads;
    PFK_LAUNCH(frame, q.device, attention_backward, p, p.q.length * cost_of(p) * 5 / 2);
    return {gq, gk, gv};
}

Outputs<6> attention_tangents_backward(Frame& frame, const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& dq, const Tensor& dk, const Tensor& dv, const Indices& mask,
                                       const Tensor& y, const Tensor& lse, const Tensor& dy, const Tensor& dlse,
                                       const Tensor& gy, const Tensor& glse, const Tensor& gdy, const Tensor& gdlse,
                                       bool causal, double scale) {
    Attention p = problem_of(q, k, v, mask, causal, scale);
    set_tangents(p, q, dq, dk, dv);
    set_outputs(p, q, gy, glse), set_images(p, q, gdy, gdlse); // the same checks
    p.gy = p.y, p.glse = p.lse, p.gvy = p.vy, p.gvlse = p.vlse;
    set_outputs(p, q, y, lse), set_images(p, q, dy, dlse);
    const Tensor gq = frame.empty_like(q), gk = frame.empty_like(k), gv = frame.empty_like(v);
    const Tensor gdq = frame.empty_like(dq), gdk = frame.empty_like(dk), gdv = frame.empty_like(dv);
    p.gq = values(gq), p.gk = values(gk), p.gv = values(gv);
    p.gvq = tangents(gdq), p.gvk = tangents(gdk), p.gvv = tangents(gdv);
    p.rows = p.events * p.heads;
    PFK_LAUNCH(frame, q.device, attention_backward, p, p.q.length * cost_of(p) * 5 / 2);
    return {gq, gk, gv, gdq, gdk, gdv};
}

} // namespace

void expose_attention(Module& module) {
    module.add<attention>("attention");
    module.add<attention_tangents>("attention_tangents");
    module.add<attention_backward>("attention_backward");
    module.add<attention_tangents_backward>("attention_tangents_backward");
}

} // namespace pfk::bind

#endif
