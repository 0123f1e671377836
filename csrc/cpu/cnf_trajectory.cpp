// cnf_trajectory on the CPU: panels of samples go through all steps, one sample a lane. Compiled once per instruction
// set.

#include "cnf_panels.h"
#include "scratch.h"

namespace pfk::cpu {
namespace {

template <class A> void run(const CnfTrajectory& p, bool backward, int64_t begin, int64_t end) {
    const int64_t space = cnf_space(p, backward).size, parameters = cnf_parameters(p);
    const int64_t of_chunk = cnf_panels_of_chunk(p) * cnf_panel(p);
    Scratch scratch(space * static_cast<int64_t>(sizeof(A)));
    Panels<A> panels(p, scratch.take<A>(space), backward);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        A* partial = backward ? static_cast<A*>(p.partial) + chunk * parameters : nullptr;
        if (backward)
            fill_zero(partial, parameters);
        const int64_t after = (chunk + 1) * of_chunk < p.samples ? (chunk + 1) * of_chunk : p.samples;
        for (int64_t first = chunk * of_chunk; first < after; first += cnf_panel(p))
            if (backward)
                panels.backward(first, partial);
            else
                panels.forward(first);
    }
}

template <class A> void pack_layers(const CnfTrajectory& p, int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
        const CnfLayer layer = cnf_layer(p, l);
        const A* w = static_cast<const A*>(p.weights) + layer.weights * p.weights_stride;
        const int64_t step = p.weights_stride, row = layer.in * step;
        pack(w, row, step, layer.out, layer.in, static_cast<A*>(p.packed) + layer.packed);
        if (p.packed_transposed != nullptr)
            pack(w, step, row, layer.in, layer.out, static_cast<A*>(p.packed_transposed) + layer.transposed);
    }
}

template <class A> void sum_block(const CnfTrajectory& p, int64_t begin, int64_t end) {
    const int64_t parameters = cnf_parameters(p), chunks = cnf_chunks(p), weights = cnf_weights(p);
    const int64_t gates = weights + (p.gated ? cnf_tables(p) : 0);
    const A* partial = static_cast<const A*>(p.partial);
    for (int64_t first = begin * kTile; first < end * kTile && first < parameters; first += kTile) {
        alignas(64) A total[kTile] = {};
        const int64_t n = parameters - first < kTile ? parameters - first : kTile;
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            add_scaled(total, A(1), partial + chunk * parameters + first, n);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t at = first + i;
            if (at < weights)
                static_cast<A*>(p.dweights)[at] = total[i];
            else if (at < gates)
                static_cast<A*>(p.dgates)[at - weights] = total[i];
            else
                static_cast<A*>(p.dshifts)[at - gates] = total[i];
        }
    }
}

} // namespace

namespace PFK_ISA {

void cnf_trajectory_pack(const CnfTrajectory& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? pack_layers<double>(p, begin, end) : pack_layers<float>(p, begin, end);
}

void cnf_trajectory(const CnfTrajectory& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? run<double>(p, false, begin, end) : run<float>(p, false, begin, end);
}

void cnf_trajectory_backward(const CnfTrajectory& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? run<double>(p, true, begin, end) : run<float>(p, true, begin, end);
}

void cnf_trajectory_sum(const CnfTrajectory& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? sum_block<double>(p, begin, end) : sum_block<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
