// MADE on the CPU, both directions and their gradients. Compiled once per instruction set.
//
// A panel of samples is worked on at a time, one sample a lane, all activations in cache. The inverse goes like a
// blocked triangular solve: what earlier blocks of coordinates contribute comes by one product a layer, and inside the
// block each coordinate is followed by exactly the units of its degree, so that every unit is computed once. The
// gradient of the inverse is the same walk backwards: one sweep.

#include "../math/made.h"
#include "made_map.h"
#include "packed_rows.h"
#include "scratch.h"
#include "transpose.h"

namespace pfk::cpu {
namespace {

static_assert(kMadeRows == kGemmRows, "made.h describes the packing of gemm.h");

template <class A> constexpr int64_t whole_lanes(int64_t n) { return n / kGemmVector<A> * kGemmVector<A>; }

// ---- one panel ---------------------------------------------------------------------------------------------------

// Whole groups of lanes at a time, so that no number depends on how many there are.
template <class A> void activate_rows(Activation kind, const A* pre, A* act, int64_t n) {
    const int64_t whole = whole_lanes<A>(n);
    with_activation(kind, [&](auto k) {
        constexpr Activation K = decltype(k)::value;
#pragma omp simd
        for (int64_t i = 0; i < whole; ++i)
            act[i] = activate<K, A>(pre[i]);
        if (whole < n) {
            A rest[kLanes] = {};
            copy(pre + whole, rest, n - whole);
#pragma omp simd
            for (int64_t i = 0; i < kLanes; ++i)
                rest[i] = activate<K, A>(rest[i]);
            copy(rest, act + whole, n - whole);
        }
    });
}

template <class A> void times_slope(Activation kind, const A* pre, A* delta, int64_t n) {
    with_activation(kind, [&](auto k) {
        constexpr Activation K = decltype(k)::value;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
            delta[i] *= activation_slope<K, A>(pre[i]);
    });
}

// What a panel needs, in units of n samples; everything lies [row][sample].
template <class A> struct Panel {
    A* x;           // D coordinates
    A *pre, *act;   // hidden units before and after their activation; one place where nobody looks back
    A* params;      // parameters of all coordinates, or of one block
    A* ladj;        // 1
    A *gx, *deltas; // gradients: D coordinates; hidden units and output rows
    A* dladj;       // 1
};

template <class A, class Map> class Network {
  public:
    Network(const MadePlan& plan, Activation activation, Residual residual, const A* weights, Map map, Panel<A> panel,
            int64_t n)
        : plan_(plan), activation_(activation), residual_(residual), weights_(weights), map_(map), at_(panel), n_(n),
          keeps_(panel.deltas != nullptr) {}

    // Biases of every hidden unit, and the shift of the first ones: (samples, units) at `shift`, if any.
    void begin(const A* shift, int64_t shift_stride, int64_t units, int64_t samples) {
        const int64_t hidden = plan_.hidden();
        for (int64_t unit = 0; unit < hidden; ++unit)
            fill(at_.pre + unit * n_, weights_[unit]);
        if (shift != nullptr)
            for (int64_t s = 0; s < samples; ++s)
                for (int64_t unit = 0; unit < units; ++unit)
                    at_.pre[unit * n_ + s] += shift[s * shift_stride + unit];
        fill(at_.ladj, A(0));
    }

    // x -> z; z (D, n) is written beside x. Before a way back, parameters alone are wanted: without z.
    void forward(A* z) {
        for (int64_t block = 0; block < plan_.blocks(); ++block) {
            const int64_t first = block * kMadeBlock, last = plan_.last_of(block);
            begin_params(first, last);
            for (int64_t layer = 0; layer <= plan_.layers; ++layer) {
                const Rows all(plan_, layer, first - 1, last);
                add(block, layer, all.from, all.to, 0, plan_.known(layer, first));
                for (int64_t i = first; i <= last; ++i) {
                    const Rows rows(plan_, layer, i - 1, i);
                    add(block, layer, rows.from, rows.to, plan_.known(layer, first), plan_.seen(layer, i));
                }
                if (layer < plan_.layers)
                    finish(layer, all.from, all.to);
            }
            for (int64_t i = first; z != nullptr && i <= last; ++i)
                map_.template move<false>(at_.x + i * n_, params_of(i, first), z + i * n_, at_.ladj, n_);
        }
    }

    // z -> x: coordinate i, then the units of degree i + 1.
    void inverse(const A* z) {
        for (int64_t block = 0; block < plan_.blocks(); ++block) {
            const int64_t first = block * kMadeBlock, last = plan_.last_of(block), out = plan_.layers;
            for (int64_t layer = 0; layer < out; ++layer) {
                const Rows rows(plan_, layer, first - 1, last);
                add(block, layer, rows.from, rows.to, 0, plan_.known(layer, first));
            }
            begin_params(first, last);
            add(block, out, first * plan_.params, (last + 1) * plan_.params, 0, plan_.known(out, first));
            for (int64_t i = first; i <= last; ++i) {
                for (int64_t layer = 0; layer < out; ++layer) {
                    const Rows rows(plan_, layer, i - 1, i);
                    add(block, layer, rows.from, rows.to, plan_.known(layer, first), plan_.seen(layer, i));
                    finish(layer, rows.from, rows.to);
                }
                add(block, out, i * plan_.params, (i + 1) * plan_.params, plan_.known(out, first), plan_.seen(out, i));
                map_.template move<true>(z + i * n_, params_of(i, first), at_.x + i * n_, at_.ladj, n_);
            }
        }
    }

    // After forward(): from gx, the gradient of the outputs, to gx, that of the inputs, and all deltas.
    void backward(const A* dz) {
        for (int64_t block = plan_.blocks() - 1; block >= 0; --block) {
            const int64_t first = block * kMadeBlock, last = plan_.last_of(block), out = plan_.layers;
            for (int64_t i = first; i <= last; ++i) {
                map_.template gradient<false>(at_.x + i * n_, params_of(i, first), dz + i * n_, at_.dladj, at_.ladj,
                                              delta(out, i * plan_.params), n_); // ladj has served: room for dx
                for (int64_t s = 0; s < n_; ++s)
                    at_.gx[i * n_ + s] += at_.ladj[s];
            }
            for (int64_t layer = out; layer >= 0; --layer) {
                const Rows all(plan_, layer, first - 1, last);
                if (layer < out)
                    slope(layer, all.from, all.to);
                for (int64_t i = first; i <= last; ++i) {
                    const Rows rows(plan_, layer, i - 1, i);
                    spread(block, layer, rows.from, rows.to, plan_.known(layer, first), plan_.seen(layer, i));
                }
                spread(block, layer, all.from, all.to, 0, plan_.known(layer, first));
            }
        }
    }

    // The gradient through the inverse in one sweep: gx, the gradient of x, becomes that of z.
    void backward_of_inverse() {
        for (int64_t block = plan_.blocks() - 1; block >= 0; --block) {
            const int64_t first = block * kMadeBlock, out = plan_.layers;
            for (int64_t i = plan_.last_of(block); i >= first; --i) {
                A* const g = at_.gx + i * n_;
                map_.template gradient<true>(at_.x + i * n_, params_of(i, first), g, at_.dladj, g,
                                             delta(out, i * plan_.params), n_);
                spread(block, out, i * plan_.params, (i + 1) * plan_.params, plan_.known(out, first),
                       plan_.seen(out, i));
                for (int64_t layer = out - 1; layer >= 0; --layer) {
                    const Rows rows(plan_, layer, i - 1, i);
                    slope(layer, rows.from, rows.to);
                    spread(block, layer, rows.from, rows.to, plan_.known(layer, first), plan_.seen(layer, i));
                }
            }
            for (int64_t layer = out; layer >= 0; --layer) {
                const Rows all(plan_, layer, first - 1, plan_.last_of(block));
                spread(block, layer, all.from, all.to, 0, plan_.known(layer, first));
            }
        }
    }

  private:
    struct Rows {
        int64_t from, to;
        Rows(const MadePlan& plan, int64_t layer, int64_t below, int64_t degree)
            : from(plan.end(layer, below)), to(plan.end(layer, degree)) {}
    };

    void fill(A* row, A value) const {
        for (int64_t s = 0; s < n_; ++s)
            row[s] = value;
    }

    bool linear(int64_t layer) const { return is_linear(residual_, layer, plan_.layers); }
    const A* inputs(int64_t layer) const { return layer == 0 ? at_.x : at_.act + plan_.offset(layer - 1) * n_; }
    A* delta(int64_t layer, int64_t row) const { return at_.deltas + (plan_.offset(layer) + row) * n_; }
    A* params_of(int64_t i, int64_t first) const { return at_.params + (keeps_ ? i : i - first) * plan_.params * n_; }

    void begin_params(int64_t first, int64_t last) const {
        A* row = params_of(first, first);
        const A* bias = weights_ + plan_.hidden() + first * plan_.params;
        for (int64_t i = 0; i < (last + 1 - first) * plan_.params; ++i, row += n_)
            fill(row, bias[i]);
    }

    // Rows [from, to) of a layer gain what columns [begin, end) contribute; the rows lie in this block.
    void add(int64_t block, int64_t layer, int64_t from, int64_t to, int64_t begin, int64_t end) const {
        const int64_t first = plan_.end(layer, block * kMadeBlock - 1);
        A* const rows = layer == plan_.layers ? params_of(block * kMadeBlock, block * kMadeBlock)
                                              : at_.pre + (plan_.offset(layer) + first) * n_;
        add_product(weights_ + plan_.start(block, layer), plan_.seen(layer, plan_.last_of(block)), from - first,
                    to - first, begin, end, inputs(layer), rows, n_);
    }

    void finish(int64_t layer, int64_t from, int64_t to) const {
        A* const pre = at_.pre + (plan_.offset(layer) + from) * n_;
        if (residual_ != Residual::None && layer > 0 && layer % 2 == 0) {
            const A* before = at_.pre + (plan_.offset(layer - 2) + from) * n_;
            for (int64_t i = 0; i < (to - from) * n_; ++i)
                pre[i] += before[i];
        }
        A* const act = at_.act + (plan_.offset(layer) + from) * n_;
        linear(layer) ? copy(pre, act, (to - from) * n_) : activate_rows(activation_, pre, act, (to - from) * n_);
    }

    // The deltas of rows whose consumers are all done, from the gradients of their activations.
    void slope(int64_t layer, int64_t from, int64_t to) const {
        if (!linear(layer))
            times_slope(activation_, at_.pre + (plan_.offset(layer) + from) * n_, delta(layer, from), (to - from) * n_);
        if (residual_ != Residual::None && layer % 2 == 0 && layer + 2 < plan_.layers) {
            const A* skipped = delta(layer + 2, from);
            A* const mine = delta(layer, from);
            for (int64_t i = 0; i < (to - from) * n_; ++i)
                mine[i] += skipped[i];
        }
    }

    void spread(int64_t block, int64_t layer, int64_t from, int64_t to, int64_t begin, int64_t end) const {
        const int64_t first = plan_.end(layer, block * kMadeBlock - 1);
        add_transposed(weights_ + plan_.start(block, layer), plan_.seen(layer, plan_.last_of(block)), from - first,
                       to - first, begin, end, delta(layer, first), layer == 0 ? at_.gx : delta(layer - 1, 0), n_);
    }

    const MadePlan plan_;
    Activation activation_;
    Residual residual_;
    const A* weights_;
    Map map_;
    Panel<A> at_;
    int64_t n_;
    bool keeps_; // every pre-activation and parameter, for the way back
};

// ---- panels of a call --------------------------------------------------------------------------------------------

// Samples as rows <-> coordinates as rows. Lanes beyond the samples hold zeros.
template <class A>
void to_panel(const A* x, int64_t stride, const int64_t* order, int64_t d, int64_t samples, A* to, int64_t n) {
    for (int64_t i = 0; i < d; ++i) {
        const A* from = x + order[i];
        A* const row = to + i * n;
        for (int64_t s = 0; s < samples; ++s)
            row[s] = from[s * stride];
        for (int64_t s = samples; s < n; ++s)
            row[s] = A(0);
    }
}

template <class A>
void from_panel(const A* panel, int64_t n, const int64_t* order, int64_t d, int64_t samples, A* y, int64_t stride) {
    if (order == nullptr)
        return transpose<A>(panel, n, d, samples, y, stride);
    for (int64_t s = 0; s < samples; ++s)
        for (int64_t i = 0; i < d; ++i)
            y[s * stride + order[i]] = panel[i * n + s];
}

template <class A> int64_t lanes_of(int64_t samples) {
    return (samples + kGemmVector<A> - 1) / kGemmVector<A> * kGemmVector<A>;
}

template <class P, class A> void widen(const void* from, A* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
        to[i] = load<A>(static_cast<const P*>(from)[i]);
}

// The weights in the arithmetic's type: as they lie, or widened into `room`; only float reads 16 bits.
template <class A> const A* weights_of(DType state, DType param, const void* weights, int64_t size, A* room) {
    if constexpr (sizeof(A) == sizeof(float)) {
        if (param != state) {
            param == DType::BF16 ? widen<bf16>(weights, room, size) : widen<fp16>(weights, room, size);
            return room;
        }
    }
    return static_cast<const A*>(weights);
}

template <template <class> class Map, class A> void run(const Made& p, const Map<A>& map, int64_t begin, int64_t end) {
    const MadePlan& plan = p.plan;
    const int64_t n = lanes_of<A>(p.panel), d = plan.features, hidden = plan.hidden();
    const int64_t params = (d < kMadeBlock ? d : kMadeBlock) * plan.params;
    const int64_t wide = p.param == p.state ? 0 : p.weights_size;
    Scratch scratch((n * (2 * d + hidden * (p.residual != Residual::None ? 2 : 1) + params + 1) + wide) *
                        int64_t(sizeof(A)) +
                    8 * 64);
    Panel<A> panel{};
    panel.x = scratch.take<A>(n * d);
    A* const z = scratch.take<A>(n * d);
    panel.pre = scratch.take<A>(n * hidden);
    panel.act = p.residual != Residual::None ? scratch.take<A>(n * hidden) : panel.pre;
    panel.params = scratch.take<A>(n * params);
    panel.ladj = scratch.take<A>(n);
    const A* const weights = weights_of(p.state, p.param, p.weights, p.weights_size, scratch.take<A>(wide));
    for (int64_t index = begin; index < end; ++index) {
        const int64_t first = index * p.panel;
        const int64_t samples = p.samples - first < p.panel ? p.samples - first : p.panel;
        const int64_t lanes = samples == 1 ? 1 : lanes_of<A>(samples); // one alone has its units in the lanes
        Network<A, Map<A>> network(plan, p.activation, p.residual, weights, map, panel, lanes);
        network.begin(p.shift != nullptr ? static_cast<const A*>(p.shift) + first * p.shift_stride : nullptr,
                      p.shift_stride, p.shift_units, samples);
        to_panel(static_cast<const A*>(p.x) + first * p.x_stride, p.x_stride, plan.data, d, samples,
                 p.inverse ? z : panel.x, lanes);
        p.inverse ? network.inverse(z) : network.forward(z);
        from_panel(p.inverse ? panel.x : z, lanes, plan.data, d, samples, static_cast<A*>(p.y) + first * d, d);
        copy(panel.ladj, static_cast<A*>(p.ladj) + first, samples);
    }
}

template <template <class> class Map, class A>
void run(const MadeBackward& p, const Map<A>& map, int64_t begin, int64_t end) {
    const MadePlan& plan = p.plan;
    const int64_t n = lanes_of<A>(p.panel), d = plan.features, hidden = plan.hidden(), units = plan.units();
    const int64_t wide = p.param == p.state ? 0 : p.weights_size;
    Scratch scratch((n * (3 * d + 2 * hidden + 2 * units + 2) + wide) * int64_t(sizeof(A)) + 10 * 64);
    Panel<A> panel{};
    panel.x = scratch.take<A>(n * d);
    A* const z = scratch.take<A>(n * d);
    panel.gx = scratch.take<A>(n * d);
    panel.pre = scratch.take<A>(n * hidden);
    panel.act = scratch.take<A>(n * hidden);
    panel.params = scratch.take<A>(n * d * plan.params);
    panel.deltas = scratch.take<A>(n * units);
    panel.ladj = scratch.take<A>(n);
    panel.dladj = scratch.take<A>(n);
    const A* const weights = weights_of(p.state, p.param, p.weights, p.weights_size, scratch.take<A>(wide));
    const int64_t first_coordinate = 0;
    for (int64_t index = begin; index < end; ++index) {
        const int64_t first = index * p.panel;
        const int64_t samples = p.samples - first < p.panel ? p.samples - first : p.panel;
        const int64_t lanes = lanes_of<A>(samples);
        Network<A, Map<A>> network(plan, p.activation, p.residual, weights, map, panel, lanes);
        network.begin(p.shift != nullptr ? static_cast<const A*>(p.shift) + first * p.shift_stride : nullptr,
                      p.shift_stride, p.shift_units, samples);
        to_panel(static_cast<const A*>(p.x) + first * p.x_stride, p.x_stride, plan.data, d, samples, panel.x, lanes);
        network.forward(nullptr);
        for (int64_t i = 0; i < units * lanes; ++i)
            panel.deltas[i] = A(0);
        to_panel(static_cast<const A*>(p.dladj) + first * p.dladj_stride, p.dladj_stride, &first_coordinate, 1, samples,
                 panel.dladj, lanes);
        const A* const dy = static_cast<const A*>(p.dy) + first * p.dy_stride;
        if (p.inverse) {
            to_panel(dy, p.dy_stride, plan.data, d, samples, panel.gx, lanes);
            network.backward_of_inverse();
        } else {
            to_panel(dy, p.dy_stride, plan.data, d, samples, z, lanes);
            for (int64_t i = 0; i < d * lanes; ++i)
                panel.gx[i] = A(0);
            network.backward(z);
        }
        from_panel(panel.gx, lanes, plan.data, d, samples, static_cast<A*>(p.dx) + first * d, d);
        if (p.dshift != nullptr)
            from_panel<A>(panel.deltas, lanes, nullptr, p.shift_units, samples,
                          static_cast<A*>(p.dshift) + first * p.shift_units, p.shift_units);
        A* const inputs = static_cast<A*>(p.inputs) + first * (d + hidden);
        from_panel<A>(panel.x, lanes, nullptr, d, samples, inputs, d + hidden);
        from_panel<A>(panel.act, lanes, nullptr, hidden, samples, inputs + d, d + hidden);
        from_panel<A>(panel.deltas, lanes, nullptr, units, samples, static_cast<A*>(p.deltas) + first * units, units);
    }
}

template <class Problem> void run_with_map(const Problem& p, int64_t begin, int64_t end) {
    const auto with = [&](const auto& map) { run(p, map, begin, end); };
    p.state == DType::F64 ? with_map<double>(p.map, with) : with_map<float>(p.map, with);
}

// ---- the gradient of the weights: one matrix at a time, samples along the product's inner dimension --------------

// One matrix: the rows of a layer and block.
struct Matrix {
    int64_t block, layer, last, from, rows, columns;

    Matrix(const MadePlan& plan, int64_t index)
        : block(index / (plan.layers + 1)), layer(index % (plan.layers + 1)), last(plan.last_of(block)),
          from(plan.end(layer, block * kMadeBlock - 1)), rows(plan.end(layer, last) - from),
          columns(plan.seen(layer, last)) {}
};

template <class T, class A> void run(const MadeWeights& p, int64_t begin, int64_t end) {
    constexpr int64_t stretch = 64; // samples whose inputs stay in cache for all matrices
    const MadePlan& plan = p.plan;
    const int64_t d = plan.features, width = d + plan.hidden(), units = plan.units();
    int64_t sums = 0, most = 0;
    for (int64_t index = begin; index < end; ++index) {
        const Matrix m(plan, index);
        sums += m.rows * (m.columns + 1);
        most = m.rows > most ? m.rows : most;
    }
    Scratch scratch((sums + (most + kGemmRows) * stretch) * int64_t(sizeof(A)) + 3 * 64);
    A* const all = scratch.take<A>(sums);
    A* const packed = scratch.take<A>((most + kGemmRows) * stretch);
    for (int64_t i = 0; i < sums; ++i)
        all[i] = A(0);
    for (int64_t s = 0; s < p.samples; s += stretch) {
        const int64_t depth = p.samples - s < stretch ? p.samples - s : stretch;
        A* sum = all; // (rows) of the biases, (rows, columns) of the matrix
        for (int64_t index = begin; index < end; ++index) {
            const Matrix m(plan, index);
            const A* const inputs =
                static_cast<const A*>(p.inputs) + s * width + (m.layer == 0 ? 0 : d + plan.offset(m.layer - 1));
            const A* const deltas = static_cast<const A*>(p.deltas) + s * units + plan.offset(m.layer) + m.from;
            for (int64_t k = 0; k < depth; ++k)
                for (int64_t row = 0; row < m.rows; ++row)
                    sum[row] += deltas[k * units + row];
            pack(deltas, 1, units, m.rows, depth, packed);
            gemm<true>(packed, inputs, width, sum + m.rows, m.columns, m.rows, depth, m.columns);
            sum += m.rows * (m.columns + 1);
        }
    }
    T* const dweights = static_cast<T*>(p.dweights);
    const A* sum = all;
    for (int64_t index = begin; index < end; ++index) {
        const Matrix m(plan, index);
        for (int64_t row = 0; row < m.rows; ++row)
            store(dweights[plan.offset(m.layer) + m.from + row], sum[row]);
        T* const matrix = dweights + plan.start(m.block, m.layer);
        const int64_t groups = (m.rows + kGemmRows - 1) / kGemmRows;
        for (int64_t i = 0; i < groups * kGemmRows * m.columns; ++i) // what no row sees has no gradient
            store(matrix[i], A(0));
        for (int64_t i = m.block * kMadeBlock; i <= m.last; ++i)
            for (int64_t row = plan.end(m.layer, i - 1) - m.from; row < plan.end(m.layer, i) - m.from; ++row)
                for (int64_t c = 0; c < plan.seen(m.layer, i); ++c)
                    store(matrix[row / kGemmRows * kGemmRows * m.columns + c * kGemmRows + row % kGemmRows],
                          sum[m.rows + row * m.columns + c]);
        sum += m.rows * (m.columns + 1);
    }
}

} // namespace

namespace PFK_ISA {

void made(const Made& p, int64_t begin, int64_t end) { run_with_map(p, begin, end); }

void made_backward(const MadeBackward& p, int64_t begin, int64_t end) { run_with_map(p, begin, end); }

void made_weights(const MadeWeights& p, int64_t begin, int64_t end) {
    switch (p.param) {
    case DType::F64:
        return run<double, double>(p, begin, end);
    case DType::BF16:
        return run<bf16, float>(p, begin, end);
    case DType::F16:
        return run<fp16, float>(p, begin, end);
    case DType::F32:
        return run<float, float>(p, begin, end);
    }
}

} // namespace PFK_ISA
} // namespace pfk::cpu
