// mlp on the CPU: tiles of samples go through all layers while they are in cache. The gradient of the weights is summed
// over all samples in their order, whatever the threads.

#include "../math/mlp.h"
#include "panels.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kStep = kMostUnits + kLanes; // from row to row of a buffer: powers of two crowd into few cache sets

template <class A> class Layers {
  public:
    explicit Layers(const Mlp& p) : p_(p) {}

    int64_t in(int layer) const { return p_.widths[layer]; }
    int64_t out(int layer) const { return p_.widths[layer + 1]; }
    // Where a layer's input begins among the units of a sample.
    int64_t offset(int layer) const {
        int64_t at = 0;
        for (int l = 0; l < layer; ++l)
            at += mlp_padded(p_.widths[l]);
        return at;
    }
    A* panels(int layer) const {
        A* at = static_cast<A*>(p_.panels);
        for (int l = 0; l < layer; ++l)
            at += p_.transposed ? out(l) * padded<A>(in(l)) : in(l) * padded<A>(out(l));
        return at;
    }
    // Padded with zeros; there are none for the backward products.
    A* bias(int layer) const {
        A* at = panels(p_.layers);
        for (int l = 0; l < layer; ++l)
            at += padded<A>(out(l));
        return at;
    }

  private:
    const Mlp& p_;
};

template <class P, class A> void pack(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    for (int layer = static_cast<int>(begin); layer < end; ++layer) {
        const P* w = static_cast<const P*>(p.weights[layer]);
        const int64_t stride = p.weight_strides[layer];
        const int64_t depth = p.transposed ? layers.out(layer) : layers.in(layer);
        const int64_t columns = p.transposed ? layers.in(layer) : layers.out(layer);
        const int64_t depth_step = p.transposed ? stride : 1, column_step = p.transposed ? 1 : stride;
        pack_panels(w, depth_step, column_step, depth, columns, layers.panels(layer));
        const P* const bias = static_cast<const P*>(p.biases[layer]);
        for (int64_t j = 0; !p.transposed && j < padded<A>(columns); ++j)
            layers.bias(layer)[j] = j < columns ? load<A>(bias[j * p.bias_strides[layer]]) : A(0);
    }
}

template <class A>
void linear(const Mlp& p, int layer, const A* in, int64_t ld_in, int64_t sample, int64_t rows, A* out, int64_t ld_out) {
    const Layers<A> layers(p);
    const int64_t width = layers.out(layer), whole = padded<A>(width);
    const A* bias = layers.bias(layer);
    for (int64_t r = 0; r < rows; ++r) {
        A* to = out + r * ld_out;
        for (int64_t j = 0; j < whole; ++j)
            to[j] = bias[j];
        if (layer == 0 && p.shift != nullptr) {
            const A* shift = static_cast<const A*>(p.shift) + (sample + r) * p.shift_stride;
            for (int64_t j = 0; j < width; ++j)
                to[j] += shift[j];
        }
    }
    multiply_panels<true>(Rows<A>{in, ld_in}, layers.in(layer), layers.panels(layer), width, out, ld_out, rows);
}

// to = activation(pre), both (rows, n)
template <class A>
void activate_tile(Activation kind, const A* pre, int64_t ld_pre, A* to, int64_t ld, int64_t rows, int64_t n) {
    with_activation(kind, [&](auto k) {
        constexpr Activation K = decltype(k)::value;
        for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
            for (int64_t j = 0; j < n; ++j)
                to[r * ld + j] = activate<K, A>(pre[r * ld_pre + j]);
        }
    });
}

template <class A> void copy_tile(const A* from, int64_t ld_from, A* to, int64_t ld, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r)
        copy(from + r * ld_from, to + r * ld, n);
}

template <class A> void forward(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    alignas(64) A tiles[2][kMlpTile * kStep];
    for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t first = tile * kMlpTile, rows = p.samples - first < kMlpTile ? p.samples - first : kMlpTile;
        const A* in = static_cast<const A*>(p.x) + first * p.x_stride;
        int64_t ld = p.x_stride, kept = 0;
        for (int layer = 0; layer < p.layers; ++layer) {
            A* out = tiles[layer % 2];
            linear(p, layer, in, ld, first, rows, out, kStep);
            const int64_t width = layers.out(layer);
            if (layer + 1 == p.layers)
                copy_tile(out, kStep, static_cast<A*>(p.y) + first * width, width, rows, width);
            else {
                if (p.kept != nullptr)
                    copy_tile(out, kStep, static_cast<A*>(p.kept) + first * mlp_hidden(p) + kept, mlp_hidden(p), rows,
                              width);
                kept += width;
                activate_tile(p.activation, out, kStep, out, kStep, rows, padded<A>(width));
            }
            in = out;
            ld = kStep;
        }
    }
}

// The inputs of every layer, x first, and what stood before the activations, with padding between them.
template <class A> void spread(const Mlp& p, int64_t sample, int64_t rows, A* pre, A* act) {
    const Layers<A> layers(p);
    const int64_t ld = mlp_units(p), hidden = mlp_hidden(p);
    const auto place = [&](const A* from, int64_t stride, A* to, int64_t width) {
        for (int64_t r = 0; r < rows; ++r) {
            copy(from + r * stride, to + r * ld, width);
            for (int64_t j = width; j < padded<A>(width); ++j)
                to[r * ld + j] = A(0);
        }
    };
    place(static_cast<const A*>(p.x) + sample * p.x_stride, p.x_stride, act, layers.in(0));
    const A* kept = static_cast<const A*>(p.kept) + sample * hidden;
    for (int layer = 1; layer < p.layers; ++layer) {
        const int64_t at = layers.offset(layer), width = layers.in(layer);
        place(kept, hidden, pre + at, width);
        activate_tile(p.activation, pre + at, ld, act + at, ld, rows, padded<A>(width));
        kept += width;
    }
}

template <class A> void backward(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    const int64_t ld = mlp_units(p);
    alignas(64) A through[kMlpTile * kStep];
    for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t first = tile * kMlpTile, rows = p.samples - first < kMlpTile ? p.samples - first : kMlpTile;
        A* const pre = static_cast<A*>(p.pre) + first * ld;
        spread(p, first, rows, pre, static_cast<A*>(p.act) + first * ld);
        const A* delta = static_cast<const A*>(p.dy) + first * p.dy_stride;
        int64_t ld_delta = p.dy_stride;
        for (int layer = p.layers - 1; layer >= 0; --layer) {
            const int64_t width = layers.in(layer), whole = padded<A>(width);
            multiply_panels<false>(Rows<A>{delta, ld_delta}, layers.out(layer), layers.panels(layer), width, through,
                                   kStep, rows);
            if (layer == 0) {
                copy_tile(through, kStep, static_cast<A*>(p.dx) + first * width, width, rows, width);
                break;
            }
            A* const to = pre + layers.offset(layer);
            with_activation(p.activation, [&](auto k) {
                constexpr Activation K = decltype(k)::value;
                for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
                    for (int64_t j = 0; j < whole; ++j)
                        to[r * ld + j] = through[r * kStep + j] * activation_slope<K, A>(to[r * ld + j]);
                }
            });
            delta = to;
            ld_delta = ld;
        }
        if (p.shift != nullptr)
            copy_tile(pre + layers.offset(1), ld, static_cast<A*>(p.dshift) + first * layers.out(0), layers.out(0),
                      rows, layers.out(0));
    }
}

// Of kMlpTile output units of one layer: the sums over all samples, in their order.
template <class P, class A> void weights(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    const int64_t ld = mlp_units(p);
    alignas(64) A sums[kMlpTile * kStep];
    for (int64_t block = begin; block < end; ++block) {
        int layer = 0;
        int64_t inside = block;
        for (; inside >= mlp_blocks(p.widths[layer + 1]); ++layer)
            inside -= mlp_blocks(p.widths[layer + 1]);
        const int64_t first = inside * kMlpTile, left = layers.out(layer) - first;
        const int64_t rows = left < kMlpTile ? left : kMlpTile, columns = layers.in(layer);
        const bool last = layer + 1 == p.layers;
        const A* delta = last ? static_cast<const A*>(p.dy) : static_cast<const A*>(p.pre) + layers.offset(layer + 1);
        const A* act = static_cast<const A*>(p.act) + layers.offset(layer);
        const int64_t ld_delta = last ? p.dy_stride : ld;
        P* const dweight = static_cast<P*>(p.dweights[layer]) + first * columns;
        P* const dbias = static_cast<P*>(p.dbiases[layer]) + first;
        for (int64_t i = 0; i < kMlpTile * kStep; ++i)
            sums[i] = A(0);
        alignas(64) A bias[kMlpTile] = {};
        for (int64_t sample = 0; sample < p.samples; sample += kDepth) {
            const int64_t n = p.samples - sample < kDepth ? p.samples - sample : kDepth;
            const A* const from = delta + sample * ld_delta + first;
            gemm<true>(Transposed<A>{from, ld_delta}, act + sample * ld, ld, sums, kStep, rows, n, padded<A>(columns));
            for (int64_t s = 0; s < n; ++s)
                for (int64_t i = 0; i < rows; ++i)
                    bias[i] += from[s * ld_delta + i];
        }
        for (int64_t i = 0; i < rows; ++i) {
            store(dbias[i], bias[i]);
            scatter(sums + i * kStep, dweight + i * columns, 1, columns);
        }
    }
}

// Calls body with a weight and a number of the arithmetic.
template <class Body> void with_parameters(DType param, Body body) {
    switch (param) {
    case DType::F64:
        return body(double(), double());
    case DType::BF16:
        return body(bf16(), float());
    case DType::F16:
        return body(fp16(), float());
    case DType::F32:
        return body(float(), float());
    }
}

} // namespace

namespace PFK_ISA {

void mlp_pack(const Mlp& p, int64_t begin, int64_t end) {
    with_parameters(p.param,
                    [&](auto param, auto arithmetic) { pack<decltype(param), decltype(arithmetic)>(p, begin, end); });
}

void mlp(const Mlp& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

void mlp_backward(const Mlp& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

void mlp_weights(const Mlp& p, int64_t begin, int64_t end) {
    with_parameters(
        p.param, [&](auto param, auto arithmetic) { weights<decltype(param), decltype(arithmetic)>(p, begin, end); });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
