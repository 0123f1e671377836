// mlp on the CPU: tiles of samples go through all layers while they are in cache, both ways. The gradient of the
// weights is summed over groups of samples, then over the groups in their order, whatever the threads.

#include "../math/mlp.h"
#include "panels.h"
#include "transpose.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kStep = kMostUnits + kLanes; // from row to row of a buffer: powers of two crowd into few cache sets

template <class A> class Layers {
  public:
    explicit Layers(const Mlp& p) : p_(p) {}

    int64_t in(int layer) const { return p_.widths[layer]; }
    int64_t out(int layer) const { return p_.widths[layer + 1]; }
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
        const P* const w = static_cast<const P*>(p.weights[layer]);
        const int64_t stride = p.weight_strides[layer], in = layers.in(layer), out = layers.out(layer);
        const int64_t depth = p.transposed ? out : in, columns = p.transposed ? in : out;
        A* panel = layers.panels(layer);
        for_panels<A>(columns, [&](int64_t first, int64_t width) {
            const int64_t inside = columns - first < width ? columns - first : width;
            for (int64_t i = 0; inside < width && i < depth * width; ++i)
                panel[i] = A(0);
            if (p.transposed)
                for (int64_t k = 0; k < depth; ++k)
                    gather(w + k * stride + first, 1, panel + k * width, inside);
            else
                transpose<A>(w + first * stride, stride, inside, depth, panel, width);
            panel += depth * width;
        });
        const P* const bias = static_cast<const P*>(p.biases[layer]);
        for (int64_t j = 0; !p.transposed && j < padded<A>(out); ++j)
            layers.bias(layer)[j] = j < out ? load<A>(bias[j * p.bias_strides[layer]]) : A(0);
    }
}

template <class A> void add(const A* from, A* to, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j)
        to[j] += from[j];
}

template <class A> void forward(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    const int64_t hidden = mlp_hidden(p);
    alignas(64) A tiles[2][kMlpTile * kStep], unseen[kStep];
    for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t first = tile * kMlpTile, rows = p.samples - first < kMlpTile ? p.samples - first : kMlpTile;
        Rows<A> in{static_cast<const A*>(p.x) + first * p.x_stride, p.x_stride};
        int64_t before = 0; // units of the layers before
        for (int layer = 0; layer < p.layers; ++layer) {
            A* const out = tiles[layer % 2];
            const A* const bias = layers.bias(layer);
            const int64_t width = layers.out(layer), whole = padded<A>(width);
            for (int64_t r = 0; r < rows; ++r) {
                copy(bias, out + r * kStep, whole);
                if (layer == 0 && p.shift != nullptr)
                    add(static_cast<const A*>(p.shift) + (first + r) * p.shift_stride, out + r * kStep, width);
            }
            multiply_panels<true>(in, layers.in(layer), layers.panels(layer), width, out, kStep, rows);
            if (layer + 1 == p.layers) {
                for (int64_t r = 0; r < rows; ++r)
                    copy_row(out + r * kStep, static_cast<A*>(p.y) + (first + r) * width, width);
                break;
            }
            with_activation(p.activation, [&](auto k) {
                constexpr Activation K = decltype(k)::value;
                for (int64_t r = 0; r < rows; ++r) {
                    A* const unit = out + r * kStep;
                    A* const kept =
                        p.kept != nullptr ? static_cast<A*>(p.kept) + (first + r) * hidden + before : unseen;
#pragma omp simd
                    for (int64_t j = 0; j < width; ++j) {
                        kept[j] = unit[j];
                        unit[j] = activate<K, A>(unit[j]);
                    }
                }
            });
            in = {out, kStep};
            before += width;
        }
    }
}

// A layer's part of the gradient of its weights, (out, in padded), and of its bias: the sums over a tile's rows of
// delta times input.
template <class A>
void add_products(Rows<A> delta, const A* inputs, int64_t rows, int64_t in, int64_t out, bool first, A* part) {
    const Transposed<A> units{delta.at, delta.ld};
    const int64_t ld = mlp_padded(in);
    A* const bias = part + out * ld;
    for (int64_t j = 0; first && j < out; ++j)
        bias[j] = A(0);
    for (int64_t r = 0; r < rows; ++r)
        add(delta.at + r * delta.ld, bias, out);
    if (first)
        gemm<false>(units, inputs, kStep, part, ld, out, rows, padded<A>(in));
    else
        gemm<true>(units, inputs, kStep, part, ld, out, rows, padded<A>(in));
}

// Of kMlpGroup samples: the gradients of x and the shift, and their part of those of the weights, tile by tile, so that
// nothing but the parts leaves the cache.
template <class A> void backward(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    const int64_t hidden = mlp_hidden(p);
    alignas(64) A inputs[kMlpTile * kStep], deltas[2][kMlpTile * kStep];
    for (int64_t group = begin; group < end; ++group) {
        const int64_t from = group * kMlpGroup, left = p.samples - from,
                      to = from + (left < kMlpGroup ? left : kMlpGroup);
        A* const sums = static_cast<A*>(p.sums) + group * mlp_sums(p);
        for (int64_t first = from; first < to; first += kMlpTile) {
            const int64_t rows = to - first < kMlpTile ? to - first : kMlpTile;
            Rows<A> delta{static_cast<const A*>(p.dy) + first * p.dy_stride, p.dy_stride};
            const A* kept = static_cast<const A*>(p.kept) + (first + 1) * hidden;
            A* part = sums + mlp_sums(p);
            for (int layer = p.layers - 1; layer >= 0; --layer) {
                const int64_t in = layers.in(layer), out = layers.out(layer);
                A* const below = deltas[layer % 2];
                kept -= layer > 0 ? in : 0;
                for (int64_t r = 0; layer > 0 && r < rows; ++r)
                    for (int64_t j = 0; j < in; j += kLanes)
                        __builtin_prefetch(kept + r * hidden + j);
                multiply_panels<false>(delta, out, layers.panels(layer), in, below, kStep, rows);
                if (layer == 0)
                    for (int64_t r = 0; r < rows; ++r) {
                        copy_row(static_cast<const A*>(p.x) + (first + r) * p.x_stride, inputs + r * kStep, in);
                        copy_row(below + r * kStep, static_cast<A*>(p.dx) + (first + r) * in, in);
                    }
                else
                    with_activation(p.activation, [&](auto k) {
                        constexpr Activation K = decltype(k)::value;
                        for (int64_t r = 0; r < rows; ++r) {
                            const A* const pre = kept + r * hidden;
                            A *const input = inputs + r * kStep, *const values = below + r * kStep;
#pragma omp simd
                            for (int64_t j = 0; j < in; ++j) {
                                input[j] = activate<K, A>(pre[j]);
                                values[j] *= activation_slope<K, A>(pre[j]);
                            }
                        }
                    });
                for (int64_t r = 0; in < padded<A>(in) && r < rows; ++r)
                    for (int64_t j = in; j < padded<A>(in); ++j)
                        inputs[r * kStep + j] = A(0);
                part -= mlp_sums(p, layer);
                add_products(delta, inputs, rows, in, out, first == from, part);
                if (layer > 0)
                    delta = {below, kStep};
            }
            for (int64_t r = 0; p.shift != nullptr && r < rows; ++r)
                copy(delta.at + r * delta.ld, static_cast<A*>(p.dshift) + (first + r) * layers.out(0), layers.out(0));
        }
    }
}

// The sums over all groups, in their order, of one layer's gradients.
template <class P, class A> void weights(const Mlp& p, int64_t begin, int64_t end) {
    const Layers<A> layers(p);
    for (int layer = static_cast<int>(begin); layer < end; ++layer) {
        const A* part = static_cast<const A*>(p.sums);
        for (int l = 0; l < layer; ++l)
            part += mlp_sums(p, l);
        const int64_t in = layers.in(layer), out = layers.out(layer), groups = p.samples == 0 ? 0 : mlp_groups(p);
        alignas(64) A sum[kStep];
        const auto total = [&](int64_t at, int64_t n, P* to) {
            for (int64_t j = 0; j < n; ++j)
                sum[j] = A(0);
            for (int64_t group = 0; group < groups; ++group)
                add(part + group * mlp_sums(p) + at, sum, n);
            scatter(sum, to, 1, n);
        };
        for (int64_t unit = 0; unit < out; ++unit)
            total(unit * mlp_padded(in), in, static_cast<P*>(p.dweights[layer]) + unit * in);
        total(out * mlp_padded(in), out, static_cast<P*>(p.dbiases[layer]));
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
