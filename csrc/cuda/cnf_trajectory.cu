// cnf_trajectory on the GPU: a block takes panels of samples through all steps and waits for nobody but itself. Panels
// are of 8 samples as long as each has a multiprocessor of its own, so that few samples fill the card, else of 32.
//
// A layer's panel is (units, P) for values and (units, P) for the tangent of each probe, side by side, in a scratch
// that only its block touches. Values and tangents meet a matrix in one product, whose factors pass through shared
// memory; then threads take rows through gate, shift and activation. The backward evaluates each step's stages once
// more and keeps them side by side, as it keeps what they give to the layers' products, so that a step has one product
// a matrix for its gradient.

#include "../math/cnf_trajectory.h"
#include "product.cuh"

namespace pfk::cuda {
namespace {

constexpr int64_t kMultiprocessors = 132; // of an H100: two blocks for each forward, one backward
constexpr int kFew = 8, kMany = 32;       // samples of a panel

int panel_of(const CnfTrajectory& p) { return p.samples <= kFew * kMultiprocessors ? kFew : kMany; }
int64_t panels_of(const CnfTrajectory& p) {
    const int64_t samples = panel_of(p);
    return (p.samples + samples - 1) / samples;
}
int64_t blocks_of(const CnfTrajectory& p, bool backward) {
    const int64_t panels = panels_of(p), most = backward ? kMultiprocessors : 2 * kMultiprocessors;
    return panels < most ? panels : most;
}

// What the warps have summed up, and a panel's integrals so far, beside the factors of the products.
template <class A> struct Memory : Factors<A> {
    A partial[3][kWarps][warp_size];
    A integrals[3][kMany]; // divergence, kinetic, jacobian: worker 0's, whose registers the products need
};

// Where the elements of a product go: into panels of an even number of columns, whose rows lie `ld` apart, or on top of
// a matrix of that many columns.
template <class A> struct Into {
    A* y;
    int64_t ld, columns;
    PFK_DEVICE void operator()(int64_t row, int64_t column, A a, A b) const {
        if (column < columns)
            vstore<2>(y + row * ld + column, Vec<A, 2>{{a, b}});
    }
};
template <class A> struct OnTop {
    A* y;
    int64_t columns;
    PFK_DEVICE void operator()(int64_t row, int64_t column, A a, A b) const {
        A* const to = y + row * columns + column;
        if (column < columns)
            to[0] += a;
        if (column + 1 < columns)
            to[1] += b;
    }
};

// ---- one block
// -------------------------------------------------------------------------------------------------------

// Where everything lies in a block's scratch: panels (rows, P), or (rows, N) with the tangents beside the values. What
// is kept of each stage lies side by side, (rows, stages P) or (rows, stages N).
struct Space {
    int64_t N, all, values; // columns of a stage, of all stages, of all stages' values
    int64_t y, bias, input, output;
    int64_t hidden, hidden_size; // layers: forward two in turn, backward all of them
    int64_t product, dinput;     // backward: the last layer's product; what its input receives
    int64_t g, dy, dbias;        // g: the gradients of all layers' products
    int64_t size;
};
Space space_of(const CnfTrajectory& p, bool backward) {
    const int64_t D = p.size, H = p.width, S = p.method.stages, P = panel_of(p);
    Space at{};
    at.N = P * (1 + p.probes), at.all = S * at.N, at.values = S * P;
    const auto take = [&at](int64_t count) {
        const int64_t begin = at.size;
        at.size += count;
        return begin;
    };
    at.y = take(D * P), at.bias = take(p.biased ? H * P : 0);
    at.input = take(D * at.all), at.output = take(D * at.all);
    at.hidden_size = H * (backward ? 2 * (at.all + at.values) : at.N);
    at.hidden = take(at.hidden_size * (backward ? p.depth : 2));
    if (backward) {
        at.product = take(D * at.all), at.dinput = take(D * at.all);
        at.g = take((p.depth * H + D) * at.all);
        at.dy = take(D * P), at.dbias = take(p.biased ? H * P : 0);
    }
    return at;
}

// A call as the kernels get it: the numbers of the method in the arithmetic's type, times the step.
template <class A> struct Call {
    CnfTrajectory p;
    Space at;
    int64_t panels, parameters, tables; // parameters of which gradients are added up; those of gates (or shifts)
    A a[kMostStages][kMostStages], b[kMostStages], scaled[kMostStages];
};

template <class A> Call<A> call_of(const CnfTrajectory& p, bool backward) {
    Call<A> call{p, space_of(p, backward), panels_of(p), cnf_parameters(p), cnf_tables(p), {}, {}, {}};
    for (int i = 0; i < kMostStages; ++i) {
        call.b[i] = static_cast<A>(p.step * p.method.b[i]);
        call.scaled[i] = static_cast<A>(p.scale) * call.b[i];
        for (int j = 0; j < kMostStages; ++j)
            call.a[i][j] = static_cast<A>(p.step * p.method.a[i][j]);
    }
    return call;
}

template <class A> PFK_DEVICE SmoothValue<A> activated(Smooth kind, A pre) {
    switch (kind) {
    case Smooth::Tanh:
        return smooth<Smooth::Tanh>(pre);
    case Smooth::Softplus:
        return smooth<Smooth::Softplus>(pre);
    case Smooth::Silu:
        return smooth<Smooth::Silu>(pre);
    case Smooth::Elu:
        return smooth<Smooth::Elu>(pre);
    default:
        return smooth<Smooth::Sin>(pre);
    }
}

template <class A, int P> struct Block {
    static constexpr int kWorkers = kThreads / P; // groups of P threads

    const Call<A>& call;
    const CnfTrajectory& p;
    const Space& at;
    A* const base;
    Memory<A>& shared;
    const int lane, worker; // the sample of the panel, and who works on it
    int64_t first;          // sample of lane 0

    PFK_DEVICE Block(const Call<A>& c, Memory<A>& s)
        : call(c), p(c.p), at(c.at), base(static_cast<A*>(c.p.panels) + blockIdx.x * c.at.size), shared(s),
          lane(static_cast<int>(threadIdx.x) % P), worker(static_cast<int>(threadIdx.x) / P), first(0) {}

    PFK_DEVICE static const A* as(const void* data) { return static_cast<const A*>(data); }
    PFK_DEVICE bool lives() const { return first + lane < p.samples; }
    PFK_DEVICE A* of_stage(int64_t begin, int stage) const { return base + begin + stage * at.N; }
    PFK_DEVICE A* input(int stage) const { return of_stage(at.input, stage); }
    PFK_DEVICE A* output(int stage) const { return of_stage(at.output, stage); }
    PFK_DEVICE A* dinput(int stage) const { return of_stage(at.dinput, stage); }
    PFK_DEVICE A* gradient(int64_t layer) const { return base + at.g + layer * p.width * at.all; }

    // Each row is its worker's, each sample its lane's, from the first step of a block to its last panel: what `body`
    // writes at (row, lane) it may read and write again unsynchronised. What one thread has of another comes by way of
    // products, which begin with a barrier and have one behind them.
    template <class Body> PFK_DEVICE void for_rows(int64_t rows, Body body) const {
        for (int64_t r = worker; r < rows; r += kWorkers)
            body(r);
    }
    PFK_DEVICE A read(const void* from, int64_t stride, int64_t at_row) const {
        return lives() ? as(from)[(first + lane) * stride + at_row] : A(0);
    }
    PFK_DEVICE void write(void* to, int64_t stride, int64_t at_row, A value) const {
        if (lives())
            static_cast<A*>(to)[(first + lane) * stride + at_row] = value;
    }
    PFK_DEVICE void add(void* to, int64_t stride, int64_t at_row, A value) const {
        if (lives())
            static_cast<A*>(to)[(first + lane) * stride + at_row] += value;
    }

    PFK_DEVICE const A* matrix(const CnfLayer& layer) const { return as(p.weights) + layer.weights * p.weights_stride; }

    PFK_DEVICE void begin() const {
        for_rows(p.size, [&](int64_t d) {
            base[at.y + d * P + lane] = read(p.x, p.x_stride, d);
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                const A e = read(p.e, p.e_stride, probe * p.size + d);
                for (int i = 0; i < p.method.stages; ++i)
                    input(i)[d * at.all + (probe + 1) * P + lane] = e;
            }
        });
        if (p.biased)
            for_rows(p.width, [&](int64_t r) { base[at.bias + r * P + lane] = read(p.bias, p.bias_stride, r); });
    }

    PFK_DEVICE void make_input(int stage) const {
        for_rows(p.size, [&](int64_t d) {
            A value = base[at.y + d * P + lane];
            for (int j = 0; j < stage; ++j)
                if (call.a[stage][j] != A(0))
                    value += call.a[stage][j] * output(j)[d * at.all + lane];
            input(stage)[d * at.all + lane] = value;
        });
    }

    // A hidden layer's panels: the product before gate and shift, then (backward) activation, slope and curvature; of
    // the values alone those two. Rows of the first two lie `ld` apart.
    struct Hidden {
        A *product, *both, *slope, *curvature;
        int64_t ld;
    };
    template <bool Keep> PFK_DEVICE Hidden hidden(int stage, int64_t layer) const {
        A* const begin = base + at.hidden + (Keep ? layer : layer % 2) * at.hidden_size;
        if constexpr (!Keep)
            return {begin, begin, nullptr, nullptr, at.N};
        A* const product = begin + stage * at.N;
        A* const slope = begin + 2 * p.width * at.all + stage * P;
        return {product, product + p.width * at.all, slope, slope + p.width * at.values, at.all};
    }

    // The field and its tangents at the stage's input; with Keep all that its gradient needs stays behind.
    template <bool Keep> PFK_DEVICE void evaluate(int64_t evaluation, int stage) const {
        const int64_t N = at.N;
        const A* const shifts = as(p.shifts) + evaluation * p.shifts_stride;
        const A* const gates = as(p.gates) + evaluation * p.gates_stride;
        const A* x = input(stage);
        int64_t x_ld = at.all;
        for (int64_t l = 0; l <= p.depth; ++l) {
            const CnfLayer layer = cnf_layer(p, l);
            const bool last = l == p.depth;
            const Hidden h = hidden<Keep>(stage, l); // of the last layer: not used
            A* const products = !last ? h.product : Keep ? of_stage(at.product, stage) : output(stage);
            const int64_t ld = last ? at.all : h.ld, step = p.weights_stride;
            multiply<true, false>(shared, Factor<A>{matrix(layer), layer.in * step, step}, layer.out,
                                  Factor<A>{x, 1, x_ld}, N, layer.in, Into<A>{products, ld, N});
            __syncthreads();
            for_rows(layer.out, [&](int64_t r) {
                const A shift = shifts[layer.column + r], gate = p.gated ? gates[layer.column + r] : A(1);
                const A* const from = products + r * ld + lane;
                A* const to = (last ? output(stage) : h.both) + r * ld + lane;
                A value = from[0], scale = gate;
                if (l == 0 && p.biased)
                    value += base[at.bias + r * P + lane];
                if (last)
                    to[0] = gate * value + shift;
                else {
                    const SmoothValue<A> f = activated(p.activation, gate * value + shift);
                    to[0] = f.value;
                    scale *= f.slope;
                    if constexpr (Keep) {
                        h.product[r * ld + lane] = value;
                        h.slope[r * at.values + lane] = f.slope;
                        h.curvature[r * at.values + lane] = f.curvature;
                    }
                }
                for (int64_t column = P; column < N; column += P)
                    to[column] = scale * from[column];
            });
            x = h.both, x_ld = h.ld;
        }
    }

    // ---- forward

    PFK_DEVICE void forward(int64_t panel) {
        const int64_t D = p.size;
        const int stages = p.method.stages;
        first = panel * P;
        begin();
        if (worker == 0)
            for (int k = 0; k < 3; ++k)
                shared.integrals[k][lane] = A(0);
        for (int64_t step = 0; step < p.steps; ++step) {
            for (int i = 0; i < stages; ++i) {
                make_input(i);
                evaluate<false>(step * stages + i, i);
                if (call.b[i] == A(0))
                    continue;
                add_up_rates(i);
                if (worker == 0) {
                    shared.integrals[0][lane] += call.scaled[i] * total(0);
                    shared.integrals[1][lane] += call.b[i] * total(1);
                    shared.integrals[2][lane] += call.scaled[i] * total(2);
                }
            }
            for_rows(D, [&](int64_t d) {
                A& y = base[at.y + d * P + lane];
                for (int i = 0; i < stages; ++i)
                    y += call.b[i] * output(i)[d * at.all + lane];
                write(p.path, p.steps * D, step * D + d, y);
            });
        }
        if (worker == 0)
            for (int k = 0; k < 3; ++k)
                write(p.integrals, 3, k, shared.integrals[k][lane]);
    }

    // The stage's part of the integrals, by as many workers whatever the panel, so that it is the same sum.
    PFK_DEVICE void add_up_rates(int stage) const {
        __syncthreads(); // rows are others' too
        if (worker < kWarps) {
            A sums[3] = {};
            for (int64_t d = worker; d < p.size; d += kWarps) {
                const A* const f = output(stage) + d * at.all + lane;
                const A* const e = input(stage) + d * at.all + lane;
                sums[1] += f[0] * f[0];
                for (int64_t column = P; column < at.N; column += P) {
                    sums[0] += e[column] * f[column];
                    sums[2] += f[column] * f[column];
                }
            }
#pragma unroll
            for (int k = 0; k < 3; ++k)
                shared.partial[k][worker][lane] = sums[k];
        }
        __syncthreads();
    }
    PFK_DEVICE A total(int which) const {
        A sum = shared.partial[which][0][lane];
#pragma unroll
        for (int w = 1; w < kWarps; ++w)
            sum += shared.partial[which][w][lane];
        return sum;
    }

    // ---- backward

    // Adds the panel's part to `dparameters` and writes the gradients of its samples. Those of the probes grow in p.de.
    PFK_DEVICE void backward(int64_t panel, A* dparameters) {
        const int64_t D = p.size, H = p.width;
        const int stages = p.method.stages;
        A* const dy = base + at.dy + lane;
        first = panel * P;
        begin();
        for_rows(D, [&](int64_t d) {
            dy[d * P] = A(0);
            for (int64_t probe = 0; probe < p.probes; ++probe)
                write(p.de, p.probes * D, probe * D + d, A(0));
        });
        if (p.biased)
            for_rows(H, [&](int64_t r) { base[at.dbias + r * P + lane] = A(0); });
        for (int64_t step = p.steps - 1; step >= 0; --step) {
            for_rows(D, [&](int64_t d) {
                dy[d * P] += read(p.dpath, p.dpath_stride, step * D + d);
                base[at.y + d * P + lane] =
                    step == 0 ? read(p.x, p.x_stride, d) : read(p.path, p.path_stride, (step - 1) * D + d);
            });
            for (int i = 0; i < stages; ++i) {
                make_input(i);
                evaluate<true>(step * stages + i, i);
            }
            for (int i = stages - 1; i >= 0; --i)
                differentiate(step * stages + i, i, dparameters);
            for (int64_t l = 0; l <= p.depth; ++l) {
                const CnfLayer layer = cnf_layer(p, l);
                const A* const x = l == 0 ? input(0) : hidden<true>(0, l - 1).both;
                multiply<true, true>(shared, Factor<A>{gradient(l), at.all, 1}, layer.out, Factor<A>{x, at.all, 1},
                                     layer.in, at.all, OnTop<A>{dparameters + layer.weights, layer.in});
            }
            for_rows(D, [&](int64_t d) {
                for (int i = 0; i < stages; ++i) {
                    const A* const received = dinput(i) + d * at.all + lane;
                    dy[d * P] += received[0];
                    for (int64_t probe = 0; probe < p.probes; ++probe)
                        add(p.de, p.probes * D, probe * D + d, received[(probe + 1) * P]);
                }
            });
        }
        for_rows(D, [&](int64_t d) { write(p.dx, D, d, dy[d * P]); });
        if (p.biased)
            for_rows(H, [&](int64_t r) { write(p.dbias, H, r, base[at.dbias + r * P + lane]); });
    }

    // Adds the sum over the panel; the other workers of the warp may have no such row.
    PFK_DEVICE void add_row(A* to, A value) const {
        const unsigned own = (full_warp >> (warp_size - P)) << (threadIdx.x % warp_size / P * P);
#pragma unroll
        for (int step = P / 2; step > 0; step /= 2)
            value += __shfl_xor_sync(own, value, step);
        if (lane == 0)
            *to += value;
    }

    // From the gradients of y', of the inputs of later stages and of the integrals to that of this stage's input; those
    // of the layers' products stay behind.
    PFK_DEVICE void differentiate(int64_t evaluation, int stage, A* dparameters) const {
        A* const dgates = dparameters + cnf_weights(p) + evaluation * cnf_outputs(p);
        A* const dshifts = dgates + (p.gated ? call.tables : 0);
        const A* const gates = as(p.gates) + evaluation * p.gates_stride;
        for (int64_t l = p.depth; l >= 0; --l) {
            const CnfLayer layer = cnf_layer(p, l);
            A* const g = gradient(l) + stage * at.N;
            if (l == p.depth)
                receive(stage, layer, gates, g, dgates, dshifts);
            else
                through_activation(hidden<true>(stage, l), l == 0, layer, gates, g, dgates, dshifts);
            const int64_t step = p.weights_stride;
            A* const below = l == 0 ? dinput(stage) : gradient(l - 1) + stage * at.N;
            multiply<false, false>(shared, Factor<A>{matrix(layer), step, layer.in * step}, layer.in,
                                   Factor<A>{g, 1, at.all}, at.N, layer.out, Into<A>{below, at.all, at.N});
            __syncthreads();
        }
    }

    // g: the gradient of the last layer's products.
    PFK_DEVICE void receive(int stage, const CnfLayer& layer, const A* gates, A* g, A* dgates, A* dshifts) const {
        const int64_t D = p.size, ld = at.all;
        const A ddivergence = call.scaled[stage] * read(p.dintegrals, p.dintegrals_stride, 0);
        const A dkinetic = call.b[stage] * read(p.dintegrals, p.dintegrals_stride, 1);
        const A djacobian = call.scaled[stage] * read(p.dintegrals, p.dintegrals_stride, 2);
        for_rows(D, [&](int64_t d) {
            const A *const f = output(stage) + d * ld + lane, *const e = input(stage) + d * ld + lane;
            const A* const products = of_stage(at.product, stage) + d * ld + lane;
            A* const to = g + d * ld + lane;
            const A gate = p.gated ? gates[layer.column + d] : A(1);
            A df = call.b[stage] * base[at.dy + d * P + lane] + A(2) * dkinetic * f[0];
            for (int j = stage + 1; j < p.method.stages; ++j)
                if (call.a[j][stage] != A(0))
                    df += call.a[j][stage] * dinput(j)[d * ld + lane];
            A across = df * products[0];
            for (int64_t probe = 0; probe < p.probes; ++probe) {
                const int64_t column = (probe + 1) * P;
                const A dv = ddivergence * e[column] + A(2) * djacobian * f[column];
                add(p.de, p.probes * D, probe * D + d, ddivergence * f[column]);
                across += dv * products[column];
                to[column] = gate * dv;
            }
            to[0] = gate * df;
            add_row(dshifts + layer.column + d, df);
            if (p.gated)
                add_row(dgates + layer.column + d, across);
        });
    }

    // g: from the gradient of a hidden layer's activation and tangents to that of its products.
    PFK_DEVICE void through_activation(const Hidden& h, bool is_first, const CnfLayer& layer, const A* gates, A* g,
                                       A* dgates, A* dshifts) const {
        for_rows(p.width, [&](int64_t r) {
            const A gate = p.gated ? gates[layer.column + r] : A(1);
            const A slope = h.slope[r * at.values + lane], curvature = h.curvature[r * at.values + lane];
            const A* const products = h.product + r * h.ld + lane;
            A* const row = g + r * h.ld + lane;
            A across = 0;
            for (int64_t column = P; column < at.N; column += P) {
                const A dtangent = row[column];
                across += dtangent * products[column];
                row[column] = dtangent * gate * slope;
            }
            const A dpre = row[0] * slope + gate * across * curvature;
            row[0] = gate * dpre;
            if (is_first && p.biased)
                base[at.dbias + r * P + lane] += gate * dpre;
            add_row(dshifts + layer.column + r, dpre);
            if (p.gated)
                add_row(dgates + layer.column + r, dpre * products[0] + slope * across);
        });
    }
};

// Doubles, few samples, and all that the backward holds, have the registers of two blocks.
template <class A, int P>
__global__ void __launch_bounds__(kThreads, sizeof(A) == sizeof(double) || P == kFew ? 1 : 2) run(const Call<A> call) {
    PFK_SHARED(Memory<A>, shared);
    Block<A, P> block(call, shared);
    for (int64_t panel = blockIdx.x; panel < call.panels; panel += gridDim.x)
        block.forward(panel);
}

template <class A, int P> __global__ void __launch_bounds__(kThreads, 1) run_backward(const Call<A> call) {
    PFK_SHARED(Memory<A>, shared);
    Block<A, P> block(call, shared);
    A* const partial = static_cast<A*>(call.p.partial) + blockIdx.x * call.parameters;
    for (int64_t i = threadIdx.x; i < call.parameters; i += kThreads)
        partial[i] = A(0);
    for (int64_t panel = blockIdx.x; panel < call.panels; panel += gridDim.x)
        block.backward(panel, partial);
}

// The parameters' gradients: a thread each, blocks in their order.
template <class A> struct Totals {
    const A* partial;
    int64_t blocks, parameters, weights, tables;
    A *dweights, *dgates, *dshifts;
};
template <class A> __global__ void __launch_bounds__(kThreads) add_up(const Totals<A> t) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= t.parameters)
        return;
    A sum = 0;
    for (int64_t block = 0; block < t.blocks; ++block)
        sum += t.partial[block * t.parameters + i];
    if (i < t.weights)
        t.dweights[i] = sum;
    else if (i < t.weights + t.tables)
        t.dgates[i - t.weights] = sum;
    else
        t.dshifts[i - t.weights - t.tables] = sum;
}

} // namespace

int64_t cnf_trajectory_scratch(const CnfTrajectory& p) { return blocks_of(p, false) * space_of(p, false).size; }

int64_t cnf_trajectory_backward_scratch(const CnfTrajectory& p) {
    return blocks_of(p, true) * (space_of(p, true).size + cnf_parameters(p));
}

Error cnf_trajectory(const CnfTrajectory& p, void* stream) {
    if (p.samples == 0)
        return cudaSuccess;
    return with_arithmetic(p.type, [&](auto type) {
        using A = typename decltype(type)::type;
        const auto kernel = panel_of(p) == kFew ? run<A, kFew> : run<A, kMany>;
        return launch(kernel, static_cast<unsigned>(blocks_of(p, false)), kThreads, 0,
                      static_cast<cudaStream_t>(stream), call_of<A>(p, false));
    });
}

Error cnf_trajectory_backward(const CnfTrajectory& p, void* stream) {
    return with_arithmetic(p.type, [&](auto type) -> cudaError_t {
        using A = typename decltype(type)::type;
        const int64_t blocks = blocks_of(p, true), parameters = cnf_parameters(p);
        Call<A> call = call_of<A>(p, true);
        call.p.partial = static_cast<A*>(p.panels) + blocks * call.at.size;
        const auto kernel = panel_of(p) == kFew ? run_backward<A, kFew> : run_backward<A, kMany>;
        const cudaError_t refused = blocks == 0 ? cudaSuccess
                                                : launch(kernel, static_cast<unsigned>(blocks), kThreads, 0,
                                                         static_cast<cudaStream_t>(stream), call);
        if (refused != cudaSuccess)
            return refused;
        const Totals<A> totals = {static_cast<const A*>(call.p.partial),
                                  blocks,
                                  parameters,
                                  cnf_weights(p),
                                  p.gated ? call.tables : 0,
                                  static_cast<A*>(p.dweights),
                                  static_cast<A*>(p.dgates),
                                  static_cast<A*>(p.dshifts)};
        return launch(add_up<A>, static_cast<unsigned>((parameters + kThreads - 1) / kThreads), kThreads, 0,
                      static_cast<cudaStream_t>(stream), totals);
    });
}

} // namespace pfk::cuda
