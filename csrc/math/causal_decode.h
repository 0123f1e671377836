// Causal transformers decoded token by token: the rules of guidance, where each weight lies, and one call as the CPU
// receives it.
#pragma once

#include "activation_tangents.h"
#include "affine.h"

namespace pfk {

constexpr int64_t kPanel = 64; // columns of a matrix that lie together
constexpr int64_t panelled(int64_t columns) { return (columns + kPanel - 1) / kPanel * kPanel; }

// What a Gaussian with a context becomes, away from one without: `GUIDANCE_RULES` of pyflowk/ops/guidance.py.
enum class Guidance : int { None, LogScale, Scale, Product };
constexpr int kGuidances = 4;

template <class A> struct Gauss {
    A log_scale, mean;
};

template <class A> PFK_HD Gauss<A> guided(Guidance rule, Gauss<A> strong, Gauss<A> weak, A w) {
    const A away = strong.mean - weak.mean, wider = strong.log_scale - weak.log_scale;
    if (rule == Guidance::LogScale)
        return {strong.log_scale + w * wider, strong.mean + w * away};
    if (rule == Guidance::Scale) {
        const A scale = exp(strong.log_scale), least = sizeof(A) == 4 ? A(1.17549435e-38) : A(2.2250738585072014e-308);
        const A further = scale + w * (scale - exp(weak.log_scale));
        return {log(further < least ? least : further), strong.mean + w * away};
    }
    const A ratio = exp(A(2) * wider), s = ratio > A(1) ? A(1) : ratio, precision = A(1) + w - w * s;
    return {strong.log_scale - A(0.5) * log(precision), strong.mean + w * s / precision * away};
}

// What softplus makes 1 of: a soft scale is softplus(raw + this), both parameters clipped by limit tanh(raw / limit)
// before, unless the limit is 0.
constexpr double kSoftOne = 0.541324854612918;

template <class A> PFK_HD A soft_clipped(A raw, A limit, A over) {
    return limit > A(0) ? limit * tanh(raw * over) : raw;
}

// An event is `tokens` of `features` numbers. The network sees `front` vectors and then all tokens but the last: places
// 0 .. front + tokens - 2. Tensors are dense but for the strides of events.
struct CausalDecode {
    DType type;
    int64_t rows, tokens, features;
    int64_t width, heads, kv_heads, hidden, depth, front;
    bool rms, gated, qk_norm;
    double eps; // of the norms
    Bound bound;
    double limit;
    Guidance guidance;
    double temperature; // of the attention that guidance goes away from
    const void* z;
    int64_t z_stride;
    const void *ahead[2], *shift[2]; // (rows, front, width), and (rows, width) or null; with the context and without
    int64_t ahead_stride[2], shift_stride[2];
    const void *guides, *places, *cos, *sin; // (tokens,); (places, width); (places, width / heads / 2), or null
    const void* weights;                     // of Weights, one behind the other
    void *x, *ladj;

    int64_t seen() const { return front + tokens - 1; }
    int64_t parameters() const { return bound == Bound::Additive ? features : 2 * features; }
    int64_t head() const { return width / heads; }
    int64_t qkv() const { return (heads + 2 * kv_heads) * head(); }
};

// Visits all weights in their order: matrix(in, out), in panels of kPanel columns and with a bias, zeros at the edge;
// vector(size) of a norm.
template <class Matrix, class Vector> void for_weights(const CausalDecode& p, Matrix matrix, Vector vector) {
    matrix(p.features, p.width);
    const auto norm = [&] {
        vector(p.width);
        if (!p.rms)
            vector(p.width);
    };
    for (int64_t layer = 0; layer < p.depth; ++layer) {
        norm();
        matrix(p.width, p.qkv());
        if (p.qk_norm) {
            vector(p.head());
            vector(p.head());
        }
        matrix(p.width, p.width);
        norm();
        matrix(p.width, (p.gated ? 2 : 1) * p.hidden);
        matrix(p.hidden, p.width);
    }
    norm();
    matrix(p.width, p.parameters());
}

inline int64_t weights_of(const CausalDecode& p) {
    int64_t size = 0;
    for_weights(p, [&](int64_t in, int64_t out) { size += (in + 1) * panelled(out); }, [&](int64_t n) { size += n; });
    return size;
}

PFK_KERNEL(causal_decode, CausalDecode)

} // namespace pfk
