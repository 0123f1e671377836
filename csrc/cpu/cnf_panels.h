// One chunk of cnf_trajectory: a panel of samples goes through all steps, and back.
//
// A layer's panel is (units, P) for values and (units, P) for the tangent of each probe, side by side. Both meet the
// same matrices; activation, slope and time are applied while a stretch of the product is in cache. The tangent behind
// the first matrix, W_0 e, is the same at every evaluation and is made once. The backward walks the path backwards:
// each step's stages are evaluated once more and kept, then differentiated from the last to the first.
#pragma once

#include "../math/cnf_trajectory.h"
#include "sums.h"

namespace pfk::cpu {
namespace {

static_assert(kPackedRows == kGemmRows, "csrc/math/cnf_trajectory.h lays the packed matrices out");

// ---- what happens to a stretch of a product -------------------------------------------------------------------------

// What one hidden layer leaves behind.
template <class A> struct Kept {
    A* both;              // (H, N): activation and its tangents
    A *slope, *curvature; // (H, P)
    A *value, *tangent;   // (H, P), (H, KP): the products before gate and shift
};

// A register's worth of a row: activation, slope and curvature of gate * x + shift, in place.
template <Smooth K, class A> void activate(A* row, A gate, A shift, A* slopes, A* curvatures, int64_t n) {
    for (int64_t i = 0; i < n; i += kGemmVector<A>) {
#pragma omp simd
        for (int64_t c = i; c < i + kGemmVector<A>; ++c) {
            const SmoothValue<A> f = smooth<K, A>(gate * row[c] + shift);
            row[c] = f.value;
            slopes[c] = f.slope;
            curvatures[c] = f.curvature;
        }
    }
}
template <class A> using Activate = void (*)(A*, A, A, A*, A*, int64_t);

template <class A> Activate<A> activation_of(Smooth kind) {
    switch (kind) {
    case Smooth::Tanh:
        return activate<Smooth::Tanh, A>;
    case Smooth::Softplus:
        return activate<Smooth::Softplus, A>;
    case Smooth::Silu:
        return activate<Smooth::Silu, A>;
    case Smooth::Elu:
        return activate<Smooth::Elu, A>;
    default:
        return activate<Smooth::Sin, A>;
    }
}

// The time's gate and shift, then either the activation, or for tangents its slope; the product itself is kept on
// request. n is a multiple of a register, and a stretch lies within the P columns that begin at `out`.
template <class A> struct Epilogue {
    A* out;
    int64_t ld;
    const A *gates, *shifts; // a row each, or null
    A* keep;
    int64_t keep_ld;
    const A* bias; // (rows, P), or null
    Activate<A> function;
    A *slope, *curvature; // (rows, P); slope with no function: the tangent's factor
    int64_t P;

    void operator()(int64_t r, A* row, int64_t n) const {
        const int64_t column = row - (out + r * ld);
        const A gate = gates != nullptr ? gates[r] : A(1), shift = shifts != nullptr ? shifts[r] : A(0);
        if (bias != nullptr)
            for (int64_t c = 0; c < n; ++c)
                row[c] += bias[r * P + column + c];
        if (keep != nullptr)
            copy(row, keep + r * keep_ld + column, n);
        if (function != nullptr)
            function(row, gate, shift, slope + r * P + column, curvature + r * P + column, n);
        else if (slope != nullptr)
            for (int64_t c = 0; c < n; ++c)
                row[c] *= gate * slope[r * P + column + c];
        else
            for (int64_t c = 0; c < n; ++c)
                row[c] = gate * row[c] + shift;
    }
};

// ---- the panels ----------------------------------------------------------------------------------------------------

template <class A> class Panels {
  public:
    Panels(const CnfTrajectory& problem, A* space, bool backward)
        : p(problem), at(cnf_space(problem, backward)), base(space), P(at.P), KP(at.KP), N(at.N), D(problem.size),
          H(problem.width), stages(problem.method.stages), y(space + at.y), e(space + at.e), bias(space + at.bias),
          first_tangent(space + at.first_tangent), integrals(space + at.integrals),
          function(activation_of<A>(problem.activation)) {}

    void forward(int64_t first) {
        begin(first);
        fill_zero(integrals, 3 * P);
        for (int64_t step = 0; step < p.steps; ++step) {
            for (int i = 0; i < stages; ++i) {
                make_input(i);
                evaluate(step * stages + i, i, false);
                add_integrals(i);
            }
            for (int i = 0; i < stages; ++i)
                add_scaled(y, factor(p.method.b[i]), slope(i), D * P);
            write(y, P, D, p.path, p.steps * D, step * D, first);
        }
        write(integrals, P, 3, p.integrals, 3, 0, first);
    }

    // Adds the panel's part to `dparameters` and writes the gradients of its samples.
    void backward(int64_t first, A* dparameters) {
        A *dy = base + at.dy, *de = base + at.de, *dfirst = base + at.dfirst_tangent, *dbias = base + at.dbias;
        begin(first);
        read(p.dintegrals, p.dintegrals_stride, 3, integrals, P, first);
        fill_zero(dy, D * P);
        fill_zero(de, D * KP);
        fill_zero(dfirst, H * KP);
        fill_zero(dbias, p.biased ? H * P : 0);
        for (int64_t step = p.steps - 1; step >= 0; --step) {
            read(as(p.dpath) + step * D, p.dpath_stride, D, input(0), P, first);
            add_scaled(dy, A(1), input(0), D * P);
            if (step == 0)
                read(p.x, p.x_stride, D, y, P, first);
            else
                read(as(p.path) + (step - 1) * D, p.path_stride, D, y, P, first);
            for (int i = 0; i < stages; ++i) {
                make_input(i);
                evaluate(step * stages + i, i, true);
            }
            for (int i = stages - 1; i >= 0; --i)
                differentiate(step * stages + i, i, dparameters);
            for (int i = 0; i < stages; ++i)
                add_scaled(dy, A(1), dinput(i), D * P);
        }
        for (int64_t probe = 0; probe < p.probes; ++probe) {
            // the one tangent W_0 e served all evaluations
            add_product(dfirst + probe * P, KP, e + probe * P, KP, dparameters, H, D, P, base + at.g + at.g_size);
            gemm<true>(transposed(cnf_layer(p, 0)), dfirst + probe * P, KP, de + probe * P, KP, D, H, P);
            write(de + probe * P, KP, D, p.de, p.probes * D, probe * D, first);
        }
        write(dy, P, D, p.dx, D, 0, first);
        if (p.biased)
            write(dbias, P, H, p.dbias, H, 0, first);
    }

  private:
    static const A* as(const void* data) { return static_cast<const A*>(data); }
    A factor(double weight) const { return static_cast<A>(p.step * weight); }
    A* input(int stage) const { return base + at.input + stage * D * P; }
    A* slope(int stage) const { return base + at.slope + stage * D * P; }
    A* tangent(int stage) const { return base + at.tangent + stage * D * KP; }
    A* last_value(int stage) const { return base + at.last_value + stage * D * P; }
    A* last_tangent(int stage) const { return base + at.last_tangent + stage * D * KP; }
    A* dinput(int stage) const { return base + at.dinput + stage * D * P; }
    Kept<A> kept(int64_t index) const {
        A* both = base + at.kept + index * at.kept_size;
        A* slope = both + H * N;
        return {both, slope, slope + H * P, slope + 2 * H * P, slope + 3 * H * P};
    }
    const A* packed(const CnfLayer& layer) const { return as(p.packed) + layer.packed; }
    const A* transposed(const CnfLayer& layer) const { return as(p.packed_transposed) + layer.transposed; }

    int64_t samples_from(int64_t first) const { return p.samples - first < P ? p.samples - first : P; }

    // (samples, rows) in memory to and from a panel (rows, P); the panel's missing samples are zero.
    void read(const void* from, int64_t stride, int64_t rows, A* panel, int64_t ld, int64_t first) const {
        const int64_t samples = samples_from(first);
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t c = 0; c < samples; ++c)
                panel[i * ld + c] = as(from)[(first + c) * stride + i];
            for (int64_t c = samples; c < P; ++c)
                panel[i * ld + c] = A(0);
        }
    }
    void write(const A* panel, int64_t ld, int64_t rows, void* to, int64_t stride, int64_t offset,
               int64_t first) const {
        const int64_t samples = samples_from(first);
        for (int64_t c = 0; c < samples; ++c)
            for (int64_t i = 0; i < rows; ++i)
                static_cast<A*>(to)[(first + c) * stride + offset + i] = panel[i * ld + c];
    }

    void begin(int64_t first) {
        read(p.x, p.x_stride, D, y, P, first);
        if (p.biased)
            read(p.bias, p.bias_stride, H, bias, P, first);
        for (int64_t probe = 0; probe < p.probes; ++probe) {
            read(as(p.e) + probe * D, p.e_stride, D, e + probe * P, KP, first);
            gemm(packed(cnf_layer(p, 0)), e + probe * P, KP, first_tangent + probe * P, KP, H, D, P);
        }
    }

    void make_input(int stage) {
        copy(y, input(stage), D * P);
        for (int j = 0; j < stage; ++j)
            if (p.method.a[stage][j] != 0)
                add_scaled(input(stage), factor(p.method.a[stage][j]), slope(j), D * P);
    }

    const A* shifts_of(int64_t evaluation) const { return as(p.shifts) + evaluation * p.shifts_stride; }
    const A* gates_of(int64_t evaluation) const {
        return p.gated ? as(p.gates) + evaluation * p.gates_stride : nullptr;
    }

    // The field and its tangents at the stage's input; with `keep`, everything that the gradient needs stays behind.
    void evaluate(int64_t evaluation, int stage, bool keep) {
        const A *shifts = shifts_of(evaluation), *gates = gates_of(evaluation);
        const A* in = input(stage);
        int64_t ld = P;
        for (int64_t l = 0; l < p.depth; ++l) {
            const CnfLayer layer = cnf_layer(p, l);
            const Kept<A> k = kept(keep ? stage * p.depth + l : l % 2);
            const A *shift = shifts + layer.column, *gate = p.gated ? gates + layer.column : nullptr;
            const Epilogue<A> values{
                k.both,   N,       gate,        shift, keep ? k.value : nullptr, P, l == 0 && p.biased ? bias : nullptr,
                function, k.slope, k.curvature, P};
            gemm(packed(layer), in, ld, k.both, N, H, layer.in, P, values);
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                A* out = k.both + P + probe * P;
                const Epilogue<A> tangents{out, N,       gate,    nullptr, keep ? k.tangent + probe * P : nullptr,
                                           KP,  nullptr, nullptr, k.slope, nullptr,
                                           P};
                if (l > 0)
                    gemm(packed(layer), in + P + probe * P, N, out, N, H, H, P, tangents);
                else
                    for (int64_t r = 0; r < H; ++r) {
                        copy(first_tangent + r * KP + probe * P, out + r * N, P);
                        tangents(r, out + r * N, P);
                    }
            }
            in = k.both;
            ld = N;
        }
        const CnfLayer layer = cnf_layer(p, p.depth);
        const A *shift = shifts + layer.column, *gate = p.gated ? gates + layer.column : nullptr;
        const Epilogue<A> values{slope(stage), P,       gate,    shift, keep ? last_value(stage) : nullptr, P, nullptr,
                                 nullptr,      nullptr, nullptr, P};
        gemm(packed(layer), in, N, slope(stage), P, D, H, P, values);
        for (int64_t probe = 0; probe < p.probes; ++probe) {
            A *out = tangent(stage) + probe * P, *kept_tangent = keep ? last_tangent(stage) + probe * P : nullptr;
            const Epilogue<A> tangents{out, KP, gate, nullptr, kept_tangent, KP, nullptr, nullptr, nullptr, nullptr, P};
            gemm(packed(layer), in + P + probe * P, N, out, KP, D, H, P, tangents);
        }
    }

    void add_integrals(int stage) {
        const A weight = factor(p.method.b[stage]), scaled = static_cast<A>(p.scale) * weight;
        if (weight == A(0))
            return;
        alignas(64) A divergence[kPanel] = {}, kinetic[kPanel] = {}, jacobian[kPanel] = {};
        for (int64_t d = 0; d < D; ++d) {
            const A* f = slope(stage) + d * P;
            for (int64_t c = 0; c < P; ++c)
                kinetic[c] += f[c] * f[c];
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                const A *v = tangent(stage) + d * KP + probe * P, *es = e + d * KP + probe * P;
                for (int64_t c = 0; c < P; ++c) {
                    divergence[c] += es[c] * v[c];
                    jacobian[c] += v[c] * v[c];
                }
            }
        }
        add_scaled(integrals, scaled, divergence, P);
        add_scaled(integrals + P, weight, kinetic, P);
        add_scaled(integrals + 2 * P, scaled, jacobian, P);
    }

    // From the gradients of y', of the inputs of later stages and of the integrals to that of this stage's input.
    void differentiate(int64_t evaluation, int stage, A* dparameters) {
        const int64_t table = cnf_weights(p) + evaluation * cnf_outputs(p);
        A *dgates = dparameters + table, *dshifts = dgates + (p.gated ? cnf_tables(p) : 0);
        const A* gates = gates_of(evaluation);
        A *g = base + at.g, *below = g + at.g_size;

        const A weight = factor(p.method.b[stage]), scaled = static_cast<A>(p.scale) * weight;
        const A *ddivergence = integrals, *dkinetic = integrals + P, *djacobian = integrals + 2 * P;
        for (int64_t d = 0; d < D; ++d) {
            const A *f = slope(stage) + d * P, *dy = base + at.dy + d * P;
            A* df = g + d * N;
            for (int64_t c = 0; c < P; ++c)
                df[c] = weight * (dy[c] + A(2) * dkinetic[c] * f[c]);
            for (int j = stage + 1; j < stages; ++j)
                if (p.method.a[j][stage] != 0)
                    add_scaled(df, factor(p.method.a[j][stage]), dinput(j) + d * P, P);
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                const int64_t row = d * KP + probe * P;
                const A *v = tangent(stage) + row, *es = e + row;
                A *dv = df + P + probe * P, *de = base + at.de + row;
                for (int64_t c = 0; c < P; ++c) {
                    dv[c] = scaled * (ddivergence[c] * es[c] + A(2) * djacobian[c] * v[c]);
                    de[c] += scaled * ddivergence[c] * v[c];
                }
            }
        }

        const CnfLayer last = cnf_layer(p, p.depth);
        for (int64_t d = 0; d < D; ++d) {
            A* row = g + d * N;
            dshifts[last.column + d] += row_total(row, P);
            if (!p.gated)
                continue;
            alignas(64) A product[kPanel];
            const A gate = gates[last.column + d], *value = last_value(stage) + d * P;
            for (int64_t c = 0; c < P; ++c)
                product[c] = row[c] * value[c];
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                const A *v = last_tangent(stage) + d * KP + probe * P, *dv = row + P + probe * P;
                for (int64_t c = 0; c < P; ++c)
                    product[c] += dv[c] * v[c];
            }
            dgates[last.column + d] += row_total(product, P);
            for (int64_t c = 0; c < N; ++c)
                row[c] *= gate;
        }
        add_product(g, N, kept(stage * p.depth + p.depth - 1).both, N, dparameters + last.weights, D, H, N, below);
        gemm(transposed(last), g, N, below, N, H, D, N);

        for (int64_t l = p.depth - 1; l >= 0; --l) {
            A* other = g;
            g = below, below = other;
            const CnfLayer layer = cnf_layer(p, l);
            through_activation(kept(stage * p.depth + l), l == 0, gates == nullptr ? nullptr : gates + layer.column, g,
                               dgates + layer.column, dshifts + layer.column);
            if (l > 0) {
                add_product(g, N, kept(stage * p.depth + l - 1).both, N, dparameters + layer.weights, H, H, N, below);
                gemm(transposed(layer), g, N, below, N, H, H, N);
                continue;
            }
            add_product(g, N, input(stage), P, dparameters, H, D, P, below);
            gemm(transposed(layer), g, N, dinput(stage), P, D, H, P);
            for (int64_t r = 0; r < H; ++r) {
                add_scaled(base + at.dfirst_tangent + r * KP, A(1), g + r * N + P, KP);
                if (p.biased)
                    add_scaled(base + at.dbias + r * P, A(1), g + r * N, P);
            }
        }
    }

    // g: from the gradient of a hidden layer's activation and tangents to that of the products with its matrix.
    void through_activation(const Kept<A>& k, bool first, const A* gates, A* g, A* dgates, A* dshifts) const {
        alignas(64) A across[kPanel], dpre[kPanel], product[kPanel];
        const int64_t P = this->P, KP = this->KP, N = this->N;
        for (int64_t r = 0; r < H; ++r) {
            const A gate = gates == nullptr ? A(1) : gates[r];
            const A *slope = k.slope + r * P, *curvature = k.curvature + r * P, *value = k.value + r * P;
            A* row = g + r * N;
            fill_zero(across, P);
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                const A* tangent = (first ? first_tangent : k.tangent) + r * KP + probe * P;
                A* dtangent = row + P + probe * P;
                for (int64_t c = 0; c < P; ++c) {
                    across[c] += dtangent[c] * tangent[c];
                    dtangent[c] *= gate * slope[c];
                }
            }
            for (int64_t c = 0; c < P; ++c) {
                dpre[c] = row[c] * slope[c] + gate * across[c] * curvature[c];
                product[c] = dpre[c] * value[c] + slope[c] * across[c];
                row[c] = gate * dpre[c];
            }
            dshifts[r] += row_total(dpre, P);
            if (gates != nullptr)
                dgates[r] += row_total(product, P);
        }
    }

    const CnfTrajectory& p;
    const CnfSpace at;
    A* const base;
    const int64_t P, KP, N, D, H;
    const int stages;
    A *const y, *const e, *const bias, *const first_tangent, *const integrals;
    const Activate<A> function;
};

} // namespace
} // namespace pfk::cpu
