// One call of cnf_trajectory and the activations of its field with their first two derivatives.
#pragma once

#include "elementary.h"
#include "kernel.h"

namespace pfk {

enum class Smooth : int { Tanh, Softplus, Silu, Elu, Sin };

template <class A> struct SmoothValue {
    A value, slope, curvature;
};

template <Smooth K, class A> PFK_HD SmoothValue<A> smooth(A x) {
    if constexpr (K == Smooth::Tanh) {
        const A y = tanh(x), d = A(1) - y * y;
        return {y, d, A(-2) * y * d};
    } else if constexpr (K == Smooth::Elu) {
        const A e = exp_flushed(detail::smaller(x, A(0)));
        return {x > A(0) ? x : e - A(1), e, x > A(0) ? A(0) : e};
    } else if constexpr (K == Smooth::Sin) {
        const SinCos<A> f = sin_cos(x);
        return {f.sin, f.cos, -f.sin};
    } else {
        const A e = exp_flushed(-detail::magnitude(x));
        const A gate = (x < A(0) ? e : A(1)) / (A(1) + e), other = (x < A(0) ? A(1) : e) / (A(1) + e);
        if constexpr (K == Smooth::Softplus)
            return {(x < A(0) ? A(0) : x) + log1p_unit(e), gate, gate * other};
        return {x * gate, gate * (A(1) + x * other), gate * other * (A(2) + x * (other - gate))};
    }
}

// k_i = f(y + h sum_j a[i][j] k_j), y' = y + h sum_i b[i] k_i.
constexpr int kMostStages = 4;
struct Tableau {
    int stages;
    double a[kMostStages][kMostStages], b[kMostStages];
};

// Samples are worked on in panels, a few neighbouring panels make a chunk. Both follow from the number of samples
// alone, so that sums over samples do not depend on threads.
struct CnfTrajectory {
    Smooth activation;
    Tableau method;
    DType type;
    int64_t rows; // of this launch: chunks, layers or blocks of parameters
    int64_t samples, size, width, depth, probes, steps;
    bool gated, biased;
    double step, scale;
    const void *x, *e, *bias, *weights, *gates, *shifts;
    int64_t x_stride, e_stride, bias_stride, weights_stride, gates_stride, shifts_stride;
    void *path, *integrals; // path: written forward, read backward

    const void *dpath, *dintegrals; // backward
    int64_t path_stride, dpath_stride, dintegrals_stride;
    void *dx, *de, *dbias, *dweights, *dgates, *dshifts;
    void *packed, *packed_transposed; // the matrices, layer after layer
    void* partial;                    // one gradient of all parameters a chunk
    void* panels;                     // work space, one a block; on the CPU a worker has its own
};

constexpr int64_t kPanel = 64, kMostChunks = 32;
constexpr int64_t kCnfMost = 1 << 18, kCnfWidest = 1 << 24; // up to which no count of weights overflows

PFK_HD int64_t cnf_panel(const CnfTrajectory& p) {
    const int64_t padded = (p.samples + 15) / 16 * 16;
    return padded < kPanel ? padded : kPanel;
}
PFK_HD int64_t cnf_panels(const CnfTrajectory& p) { return p.samples == 0 ? 0 : (p.samples - 1) / cnf_panel(p) + 1; }
PFK_HD int64_t cnf_panels_of_chunk(const CnfTrajectory& p) { return (cnf_panels(p) + kMostChunks - 1) / kMostChunks; }
PFK_HD int64_t cnf_chunks(const CnfTrajectory& p) {
    return p.samples == 0 ? 0 : (cnf_panels(p) - 1) / cnf_panels_of_chunk(p) + 1;
}

PFK_HD int64_t cnf_outputs(const CnfTrajectory& p) { return p.depth * p.width + p.size; }
PFK_HD int64_t cnf_weights(const CnfTrajectory& p) { return 2 * p.size * p.width + (p.depth - 1) * p.width * p.width; }
PFK_HD int64_t cnf_tables(const CnfTrajectory& p) { return p.steps * p.method.stages * cnf_outputs(p); }
PFK_HD int64_t cnf_parameters(const CnfTrajectory& p) { return cnf_weights(p) + (p.gated ? 2 : 1) * cnf_tables(p); }

// A layer's sizes, where its matrix begins, its part of gates and shifts, and where it begins when packed in blocks of
// kPackedRows rows, as it is and transposed.
constexpr int64_t kPackedRows = 6;
PFK_HD int64_t cnf_packed_size(int64_t rows, int64_t columns) {
    return (rows + kPackedRows - 1) / kPackedRows * kPackedRows * columns;
}

struct CnfLayer {
    int64_t in, out, weights, column, packed, transposed;
};
PFK_HD CnfLayer cnf_layer(const CnfTrajectory& p, int64_t layer) {
    const int64_t D = p.size, H = p.width, between = layer - 1;
    CnfLayer at{layer == 0 ? D : H, layer == p.depth ? D : H, 0, layer * H, 0, 0};
    if (layer > 0) {
        at.weights = D * H + between * H * H;
        at.packed = cnf_packed_size(H, D) + between * cnf_packed_size(H, H);
        at.transposed = cnf_packed_size(D, H) + between * cnf_packed_size(H, H);
    }
    return at;
}
PFK_HD int64_t cnf_all_packed(const CnfTrajectory& p) { // the same for the transposed ones
    return cnf_packed_size(p.width, p.size) + (p.depth - 1) * cnf_packed_size(p.width, p.width) +
           cnf_packed_size(p.size, p.width);
}

// Where everything lies in the CPU's work space: panels of (rows, P), P columns each for P samples.
struct CnfSpace {
    int64_t P, KP, N; // columns: samples, tangents, both
    int64_t y, e, bias, first_tangent, integrals;
    int64_t input, slope, tangent; // of the first stage; others follow
    int64_t kept, kept_size;       // of the first stage's first layer
    int64_t last_value, last_tangent, dinput, g, g_size, dy, de, dfirst_tangent, dbias; // backward
    int64_t size;
};
PFK_HD CnfSpace cnf_space(const CnfTrajectory& p, bool backward) {
    const int64_t P = cnf_panel(p), KP = P * p.probes, N = P + KP, D = p.size, H = p.width, S = p.method.stages;
    CnfSpace at{};
    at.P = P, at.KP = KP, at.N = N;
    int64_t end = 0;
    const auto take = [&end](int64_t count) {
        const int64_t begin = end;
        end += count;
        return begin;
    };
    at.y = take(D * P), at.e = take(D * KP), at.bias = take(p.biased ? H * P : 0), at.first_tangent = take(H * KP);
    at.integrals = take(3 * P);
    at.input = take(S * D * P), at.slope = take(S * D * P), at.tangent = take(S * D * KP);
    at.kept_size = H * (N + 3 * P + KP);
    at.kept = take(at.kept_size * (backward ? S * p.depth : 2));
    if (backward) {
        at.last_value = take(S * D * P), at.last_tangent = take(S * D * KP), at.dinput = take(S * D * P);
        at.g_size = (H > D ? H : D) * N;
        at.g = take(2 * at.g_size);
        at.dy = take(D * P), at.de = take(D * KP), at.dfirst_tangent = take(H * KP);
        at.dbias = take(p.biased ? H * P : 0);
    }
    at.size = end;
    return at;
}

PFK_KERNEL(cnf_trajectory_pack, CnfTrajectory)
PFK_KERNEL(cnf_trajectory, CnfTrajectory)
PFK_KERNEL(cnf_trajectory_backward, CnfTrajectory)
PFK_KERNEL(cnf_trajectory_sum, CnfTrajectory)
PFK_SCRATCH_OF(cnf_trajectory, CnfTrajectory)
PFK_SCRATCH_OF(cnf_trajectory_backward, CnfTrajectory)

} // namespace pfk
