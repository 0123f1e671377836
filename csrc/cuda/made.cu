// What is sequential in MADE on the GPU: the inverse, and the triangular system of its gradient. All else is products,
// which are torch's. A block owns 16 samples and walks all coordinates; samples are independent, so nothing is ever
// waited for beyond it. Both walks are blocked triangular solves: what lies between blocks of kMadeBlock coordinates
// goes by wide products, and inside a block each coordinate is followed by exactly the units of its degree.

#include "../math/made.h"
#include "device.cuh"
#include "made_map.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / warp_size;
constexpr int64_t kMostBlocks = 512;

// A lane has two neighbouring samples, so that a weight that was loaded serves twice, and a part of every sum's terms.
constexpr int kPair = 2, kParts = 4, kTile = kMapPitch; // samples of a block
static_assert(kTile == kPair * warp_size / kParts, "a warp has every sample of the tile in each part");

// With fewer registers the calls of a double division would spill.
template <class A> constexpr int blocks_at_once() { return sizeof(A) == sizeof(double) ? 1 : 2; }

int64_t tiles_of(int64_t samples) { return (samples + kTile - 1) / kTile; }
unsigned blocks_of(int64_t samples) {
    const int64_t tiles = tiles_of(samples);
    return static_cast<unsigned>(tiles < kMostBlocks ? tiles : kMostBlocks);
}

// Rows of the room in which a block keeps its tile, [row][sample].
PFK_HD int64_t rows_of(const Made& p, int64_t hidden) {
    const int64_t d = p.plan.features;
    return d + hidden * (p.residual != Residual::None ? 2 : 1) + (d < kMadeBlock ? d : kMadeBlock) * p.plan.params;
}
PFK_HD int64_t rows_of(const MadeSolve& p, int64_t hidden) { return p.plan.features * (1 + p.plan.params) + hidden; }

PFK_HD int64_t plan_room(const MadePlan& plan) { return (plan.size() + 1) / 2 * 2; } // rows begin at 16 bytes

// The room is in shared memory, behind the plan, or, where that is too small, in global memory that only this block
// touches.
template <class A, class Problem> PFK_DEVICE A* room_of(const Problem& p, MadePlan& plan) {
    PFK_DYN_SHARED(int64_t, shared);
    if (p.scratch != nullptr)
        return static_cast<A*>(p.scratch) + blockIdx.x * rows_of(p, p.hidden) * kTile;
#pragma unroll 2
    for (int64_t i = threadIdx.x; i < plan.size(); i += kThreads)
        shared[i] = plan.data[i];
    __syncthreads();
    plan.data = shared;
    return reinterpret_cast<A*>(shared + plan_room(plan));
}

// A thread's place.
struct Place {
    int lane, warp, part;
    int pair;         // the first of this lane's samples
    int sample, half; // where sums are dealt out: the sample, and which of two rows
    int64_t first;    // of the tile

    PFK_DEVICE Place()
        : lane(static_cast<int>(threadIdx.x) % warp_size), warp(static_cast<int>(threadIdx.x) / warp_size),
          part(lane / (kTile / kPair)), pair(lane % (kTile / kPair) * kPair), sample(pair + part % kPair),
          half(part / kPair), first(0) {}
};

// Between rows of the room and (samples, n) in global memory, a warp a sample: body(its number, its place in the tile).
template <class Body> PFK_DEVICE void each_sample(const Place& at, Body body) {
    for (int s = at.warp; s < kTile; s += kWarps)
        body(at.first + s, s);
}

// ---- the inverse ---------------------------------------------------------------------------------------------------

template <class A, class P> struct Inverse {
    const Made& p;
    const MadePlan& plan;
    const Place& at;
    const P* weights;
    A *x, *act, *pre, *params; // pre: of residual networks; params: of one block of coordinates

    PFK_DEVICE Inverse(const Made& problem, const MadePlan& where, const Place& place, A* room)
        : p(problem), plan(where), at(place), weights(static_cast<const P*>(problem.weights)) {
        x = room;
        act = x + plan.features * kTile;
        pre = act + p.hidden * kTile;
        params = p.residual != Residual::None ? pre + p.hidden * kTile : pre;
    }

    PFK_DEVICE const A* inputs(int64_t layer) const { return layer == 0 ? x : act + plan.offset(layer - 1) * kTile; }
    // Rows of a block in a layer: sums that grow, and become activations.
    PFK_DEVICE A* outputs(int64_t block, int64_t layer) const {
        return layer == plan.layers ? params
                                    : act + (plan.offset(layer) + plan.end(layer, block * kMadeBlock - 1)) * kTile;
    }

    // What columns [begin, end) add to R rows of a group, in all parts of the warp. The loads of a stretch of columns
    // are under way together.
    template <int R> PFK_DEVICE void dot(const P* w, const A* h, int64_t begin, int64_t end, A (&sum)[R][kPair]) const {
        constexpr int ahead = R == 1 ? 16 : sizeof(P) == 2 ? 6 : 8; // of 16 bits more would spill
        for (int64_t stretch = begin; stretch < end; stretch += kParts * ahead) {
            A weight[ahead][R];
            Vec<A, kPair> value[ahead];
#pragma unroll
            for (int j = 0; j < ahead; ++j) {
                const int64_t k = stretch + j * kParts + at.part;
                const bool there = k < end;
                value[j] = there ? vload<kPair>(h + k * kTile + at.pair) : Vec<A, kPair>{};
#pragma unroll
                for (int r = 0; r < R; ++r)
                    weight[j][r] = there ? A(widen(w[k * kMadeRows + r])) : A(0);
            }
#pragma unroll
            for (int j = 0; j < ahead; ++j)
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int s = 0; s < kPair; ++s)
                        sum[r][s] += weight[j][r] * value[j][s];
        }
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int s = 0; s < kPair; ++s)
#pragma unroll
                for (int step = warp_size / kParts; step < warp_size; step *= 2)
                    sum[r][s] += __shfl_xor_sync(full_warp, sum[r][s], step);
    }

    // done(row, sum) for each of R rows and this thread's sample.
    template <int R, class Done> PFK_DEVICE void deal(const A (&sum)[R][kPair], Done done) const {
        const bool odd = at.sample % kPair;
        if constexpr (R == 1) {
            if (at.half == 0)
                done(0, odd ? sum[0][1] : sum[0][0]);
        } else {
#pragma unroll
            for (int r = 0; r < R; r += 2) {
                const A even = odd ? sum[r][1] : sum[r][0], next = odd ? sum[r + 1][1] : sum[r + 1][0];
                done(r + at.half, at.half == 0 ? even : next);
            }
        }
    }

    // Biases, shifts, and what earlier blocks add, for all rows of a block. Groups of rows are dealt out to the warps.
    PFK_DEVICE void begin(int64_t block) const {
        const int64_t first = block * kMadeBlock, last = plan.last_of(block), sample = at.first + at.sample;
        int64_t group = at.warp;
        for (int64_t layer = 0; layer <= plan.layers; ++layer) {
            const int64_t low = plan.end(layer, first - 1), rows = plan.end(layer, last) - low;
            const int64_t unit = plan.offset(layer) + low, columns = plan.seen(layer, last);
            const int64_t groups = (rows + kMadeRows - 1) / kMadeRows;
            A* const to = outputs(block, layer) + at.sample;
            for (; group < groups; group += kWarps) {
                A sum[kMadeRows][kPair] = {};
                dot(weights + plan.start(block, layer) + group * kMadeRows * columns, inputs(layer), 0,
                    plan.known(layer, first), sum);
                deal(sum, [&](int r, A value) {
                    const int64_t row = group * kMadeRows + r;
                    if (row >= rows)
                        return;
                    value += A(widen(weights[unit + row]));
                    if (unit + row < p.shift_units && sample < p.samples)
                        value += static_cast<const A*>(p.shift)[sample * p.shift_stride + unit + row];
                    to[row * kTile] = value;
                });
            }
            group -= groups;
        }
    }

    // The rows [from, to) of one degree, R at a time: what their own block adds, and the activation.
    template <int R>
    PFK_DEVICE void finish(int64_t block, int64_t layer, int64_t degree, int64_t from, int64_t to) const {
        const int64_t columns = plan.seen(layer, plan.last_of(block)), seen = plan.seen(layer, degree);
        const int64_t known = plan.known(layer, block * kMadeBlock), low = plan.end(layer, block * kMadeBlock - 1);
        A* const rows = outputs(block, layer) + at.sample;
        for (int64_t row = from / R * R + at.warp * R; row < to; row += kWarps * R) {
            A sum[R][kPair] = {};
            dot(weights + plan.start(block, layer) + row / kMadeRows * kMadeRows * columns + row % kMadeRows,
                inputs(layer), known, seen, sum);
            deal(sum, [&](int r, A value) {
                if (row + r >= from && row + r < to)
                    rows[(row + r) * kTile] += value;
            });
            if (layer == plan.layers)
                continue;
#pragma unroll 1
            for (int r = at.half; r < R; r += 2)
                if (row + r >= from && row + r < to)
                    activate_unit(layer, low + row + r, rows + (row + r) * kTile);
        }
    }

    PFK_DEVICE void activate_unit(int64_t layer, int64_t row, A* cell) const {
        A value = *cell;
        if (p.residual != Residual::None) {
            if (layer > 0 && layer % 2 == 0)
                value += pre[(plan.offset(layer - 2) + row) * kTile + at.sample];
            pre[(plan.offset(layer) + row) * kTile + at.sample] = value;
        }
        *cell = is_linear(p.residual, layer, plan.layers) ? value : activated(p.activation, value);
    }

    // Everything that coordinate i is mapped by, and the units on the way.
    PFK_DEVICE void parameters(int64_t block, int64_t i) const {
        for (int64_t layer = 0; layer <= plan.layers; ++layer) {
            const int64_t low = plan.end(layer, block * kMadeBlock - 1);
            const int64_t from = plan.end(layer, i - 1) - low, to = plan.end(layer, i) - low;
            if (from == to)
                continue;
            if (to - from > 2 * kWarps)
                finish<kMadeRows>(block, layer, i, from, to);
            else
                finish<1>(block, layer, i, from, to);
            __syncthreads();
        }
    }
};

template <class A, class P, template <class> class Map>
__global__ void __launch_bounds__(kThreads, blocks_at_once<A>()) invert(const Made p) {
    MadePlan plan = p.plan;
    A* const room = room_of<A>(p, plan);
    Place at;
    const Inverse<A, P> net(p, plan, at, room);
    const Map<A> map(p.map);
    const int64_t d = plan.features, tiles = (p.samples + kTile - 1) / kTile;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        at.first = tile * kTile;
        each_sample(at, [&](int64_t sample, int s) {
            const A* const z = static_cast<const A*>(p.x) + sample * p.x_stride;
#pragma unroll 2
            for (int64_t i = at.lane; i < d; i += warp_size)
                net.x[i * kTile + s] = sample < p.samples ? z[plan.order(i)] : A(0);
        });
        A ladj = 0; // of the threads that map
        for (int64_t block = 0; block < plan.blocks(); ++block) {
            net.begin(block); // the first has nothing to look at yet
            __syncthreads();
            for (int64_t i = block * kMadeBlock; i <= plan.last_of(block); ++i) {
                net.parameters(block, i);
                if (threadIdx.x < kTile) {
                    A* const params = net.params + i % kMadeBlock * plan.params * kTile + threadIdx.x;
                    A s, *const cell = net.x + i * kTile + threadIdx.x;
                    *cell = map.inverse(*cell, {params}, s);
                    ladj -= s;
                }
                __syncthreads();
            }
        }
        each_sample(at, [&](int64_t sample, int s) {
            A* const y = static_cast<A*>(p.y) + sample * d;
            for (int64_t i = at.lane; sample < p.samples && i < d; i += warp_size)
                y[plan.order(i)] = net.x[i * kTile + s];
        });
        if (threadIdx.x < kTile && at.first + threadIdx.x < p.samples)
            static_cast<A*>(p.ladj)[at.first + threadIdx.x] = ladj;
    }
}

// ---- the system of its gradient ------------------------------------------------------------------------------------

template <class A, class P> struct Solve {
    const MadePlan& plan;
    const Place& at;
    const P* weights;
    A *g, *deltas;

    // Columns [begin, end) of a layer gain what rows [from, to) of a block give them; `group`: of eight columns, the
    // one that this warp begins with. A lane has a column, and the fourth one after it.
    PFK_DEVICE void spread(int64_t block, int64_t layer, int64_t from, int64_t to, int64_t begin, int64_t end,
                           int64_t& group) const {
        constexpr int columns = 2;
        const int64_t low = plan.end(layer, block * kMadeBlock - 1), width = plan.seen(layer, plan.last_of(block));
        const P* const matrix = weights + plan.start(block, layer);
        const A* const given = deltas + (plan.offset(layer) + low) * kTile + at.pair;
        A* const gaining = (layer == 0 ? g : deltas + plan.offset(layer - 1) * kTile) + at.pair;
        const int64_t groups = (end - begin + columns * kParts - 1) / (columns * kParts);
        for (; group < groups; group += kWarps) {
            const int64_t column = begin + group * columns * kParts + at.part;
            const int64_t opens = from / kMadeRows * kMadeRows;
            const P* w = matrix + opens * width + column * kMadeRows;
            const A* delta = given + opens * kTile;
            A sum[columns][kPair] = {};
            int before = static_cast<int>(from - opens), left = static_cast<int>(to - opens); // rows from here
#pragma unroll 2
            for (; left > 0; left -= kMadeRows, before -= kMadeRows) {
#pragma unroll
                for (int r = 0; r < kMadeRows; ++r) {
                    const bool there = r >= before && r < left;
                    const auto value = there ? vload<kPair>(delta + r * kTile) : Vec<A, kPair>{};
#pragma unroll
                    for (int c = 0; c < columns; ++c) {
                        const bool has = there && column + c * kParts < end;
                        const A weight = has ? A(widen(w[c * kParts * kMadeRows + r])) : A(0);
#pragma unroll
                        for (int s = 0; s < kPair; ++s)
                            sum[c][s] += weight * value[s];
                    }
                }
                w += kMadeRows * width;
                delta += kMadeRows * kTile;
            }
#pragma unroll
            for (int c = 0; c < columns; ++c)
                if (column + c * kParts < end) {
                    A* const cell = gaining + (column + c * kParts) * kTile;
                    Vec<A, kPair> total = vload<kPair>(cell);
#pragma unroll
                    for (int s = 0; s < kPair; ++s)
                        total[s] += sum[c][s];
                    *reinterpret_cast<Vec<A, kPair>*>(cell) = total;
                }
        }
        group -= groups;
    }

    // What rows [from, to) of degree i give to their own block.
    PFK_DEVICE void spread_inside(int64_t block, int64_t layer, int64_t i, int64_t from, int64_t to) const {
        const int64_t low = plan.end(layer, block * kMadeBlock - 1);
        int64_t group = at.warp;
        spread(block, layer, from - low, to - low, plan.known(layer, block * kMadeBlock), plan.seen(layer, i), group);
    }

    PFK_DEVICE void spread_before(int64_t block) const {
        const int64_t first = block * kMadeBlock;
        int64_t group = at.warp;
        for (int64_t layer = 0; layer <= plan.layers; ++layer)
            spread(block, layer, 0, plan.end(layer, plan.last_of(block)) - plan.end(layer, first - 1), 0,
                   plan.known(layer, first), group);
    }
};

template <class A, class P> __global__ void __launch_bounds__(kThreads, blocks_at_once<A>()) solve(const MadeSolve p) {
    constexpr int rows_at_once = kThreads / kTile;
    MadePlan plan = p.plan;
    A* const room = room_of<A>(p, plan);
    Place at;
    const int64_t d = plan.features, units = plan.units(), tiles = (p.samples + kTile - 1) / kTile;
    const Solve<A, P> net{plan, at, static_cast<const P*>(p.weights), room, room + d * kTile};
    const int s = static_cast<int>(threadIdx.x) % kTile, own = static_cast<int>(threadIdx.x) / kTile; // of a thread
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        at.first = tile * kTile;
        each_sample(at, [&](int64_t sample, int place) {
            const A* const dy = static_cast<const A*>(p.dy) + sample * p.dy_stride;
#pragma unroll 2
            for (int64_t i = at.lane; i < d; i += warp_size)
                net.g[i * kTile + place] = sample < p.samples ? dy[i] : A(0);
        });
        for (int64_t i = threadIdx.x; i < p.hidden * kTile; i += kThreads)
            net.deltas[i] = A(0);
        __syncthreads();
        const int64_t sample = at.first + s;
        const bool lives = sample < p.samples;
        const A* const rates = static_cast<const A*>(p.rates) + sample * p.rates_stride;
        const A* const terms = static_cast<const A*>(p.terms) + sample * p.terms_stride;
        const A* const slopes = static_cast<const A*>(p.slopes) + sample * p.slopes_stride;
        for (int64_t block = plan.blocks() - 1; block >= 0; --block) {
            for (int64_t i = plan.last_of(block); i >= block * kMadeBlock; --i)
                for (int64_t layer = plan.layers; layer >= 0; --layer) {
                    const int64_t from = plan.end(layer, i - 1), to = plan.end(layer, i), offset = plan.offset(layer);
                    if (from == to)
                        continue;
                    for (int64_t row = from + own; row < to; row += rows_at_once) {
                        A* const delta = net.deltas + (offset + row) * kTile + s;
                        if (!lives)
                            *delta = A(0);
                        else if (layer == plan.layers)
                            *delta = rates[row] * net.g[i * kTile + s] + terms[row];
                        else
                            *delta *= slopes[offset + row];
                        if (p.residual != Residual::None && layer % 2 == 0 && layer + 2 < plan.layers)
                            *delta += net.deltas[(plan.offset(layer + 2) + row) * kTile + s];
                    }
                    __syncthreads();
                    net.spread_inside(block, layer, i, from, to);
                    __syncthreads();
                }
            net.spread_before(block);
            __syncthreads();
        }
        each_sample(at, [&](int64_t sample, int place) {
            A* const g = static_cast<A*>(p.g) + sample * d;
            A* const deltas = static_cast<A*>(p.deltas) + sample * units;
            for (int64_t i = at.lane; sample < p.samples && i < d; i += warp_size)
                g[i] = net.g[i * kTile + place];
            for (int64_t i = at.lane; sample < p.samples && i < units; i += warp_size)
                deltas[i] = net.deltas[i * kTile + place];
        });
        __syncthreads();
    }
}

// ---- packed and dense ----------------------------------------------------------------------------------------------

// A warp a row.
template <class A, bool Packs> __global__ void __launch_bounds__(kThreads) repack(const MadeDense p) {
    const MadePlan& plan = p.plan;
    const int lane = static_cast<int>(threadIdx.x) % warp_size;
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / warp_size;
    if (unit >= p.units)
        return;
    int64_t layer = 0, width = plan.features, opens = p.units; // of the layer: columns, and where its matrix begins
    for (; layer < plan.layers && unit >= plan.offset(layer + 1); ++layer) {
        const int64_t rows = plan.offset(layer + 1) - plan.offset(layer);
        opens += rows * width;
        width = rows;
    }
    const int64_t row = unit - plan.offset(layer);
    int64_t degree = 0; // the first one whose rows end behind this one
    for (int64_t count = plan.features; count > 0;) {
        const int64_t step = count / 2;
        const bool ends = plan.end(layer, degree + step) <= row;
        degree = ends ? degree + step + 1 : degree;
        count = ends ? count - step - 1 : step;
    }
    const int64_t block = degree / kMadeBlock, last = plan.last_of(block),
                  low = plan.end(layer, block * kMadeBlock - 1);
    const int64_t columns = plan.seen(layer, last), seen = plan.seen(layer, degree);
    const int64_t inside = row - low, place = inside % kMadeRows;
    A* const packed = static_cast<A*>(p.packed) + plan.start(block, layer) + (inside - place) * columns;
    A* const dense = static_cast<A*>(p.dense) + opens + row * width;
    A *const bias = static_cast<A*>(p.packed) + unit, *const dense_bias = static_cast<A*>(p.dense) + unit;
    if (Packs) {
        if (lane == 0)
            *bias = *dense_bias;
        const int64_t after = low + inside + 1 == plan.end(layer, last) ? kMadeRows : place + 1; // padding too
        for (int64_t k = lane; k < columns; k += warp_size) {
            packed[k * kMadeRows + place] = k < seen ? dense[k] : A(0);
            for (int64_t r = place + 1; r < after; ++r)
                packed[k * kMadeRows + r] = A(0);
        }
    } else {
        if (lane == 0)
            *dense_bias = *bias;
        for (int64_t k = lane; k < width; k += warp_size)
            dense[k] = k < seen ? packed[k * kMadeRows + place] : A(0);
    }
}

// ---- launches ------------------------------------------------------------------------------------------------------

// Calls body(Type<arithmetic>, Type<weights in memory>).
template <class Body> cudaError_t with_types(DType param, Body body) {
    switch (param) {
    case DType::F64:
        return body(Type<double>{}, Type<double>{});
    case DType::BF16:
        return body(Type<float>{}, Type<bf16>{});
    case DType::F16:
        return body(Type<float>{}, Type<fp16>{});
    default:
        return body(Type<float>{}, Type<float>{});
    }
}

template <class Problem> std::size_t shared_of(const Problem& p) {
    const int64_t bytes = p.state == DType::F64 ? sizeof(double) : sizeof(float);
    return static_cast<std::size_t>(plan_room(p.plan) * int64_t(sizeof(int64_t)) +
                                    rows_of(p, p.hidden) * kTile * bytes);
}

template <class Problem> int64_t scratch_of(const Problem& p) {
    int most = 0;
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, p.device);
    return shared_of(p) <= static_cast<std::size_t>(most) ? 0 : blocks_of(p.samples) * rows_of(p, p.hidden) * kTile;
}

template <class Problem> cudaError_t launch_tiles(void (*kernel)(Problem), const Problem& p, void* stream) {
    return launch(kernel, blocks_of(p.samples), kThreads, p.scratch == nullptr ? shared_of(p) : 0,
                  static_cast<cudaStream_t>(stream), p);
}

} // namespace

int64_t made_scratch(const Made& p) { return scratch_of(p); }
int64_t made_solve_scratch(const MadeSolve& p) { return scratch_of(p); }

Error made(const Made& p, void* stream) {
    if (p.samples == 0)
        return cudaSuccess;
    return with_types(p.param, [&](auto arithmetic, auto param) {
        using A = typename decltype(arithmetic)::type;
        using P = typename decltype(param)::type;
        return p.map.spline.bins > 0 ? launch_tiles(invert<A, P, SplineMap>, p, stream)
                                     : launch_tiles(invert<A, P, AffineMap>, p, stream);
    });
}

Error made_solve(const MadeSolve& p, void* stream) {
    if (p.samples == 0)
        return cudaSuccess;
    return with_types(p.param, [&](auto arithmetic, auto param) {
        return launch_tiles(solve<typename decltype(arithmetic)::type, typename decltype(param)::type>, p, stream);
    });
}

Error made_dense(const MadeDense& p, void* stream) {
    const auto blocks = static_cast<unsigned>((p.units + kWarps - 1) / kWarps);
    const auto run = [&](auto kernel) {
        return launch(kernel, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), p);
    };
    if (p.type == DType::F64)
        return p.packs ? run(repack<double, true>) : run(repack<double, false>);
    return p.packs ? run(repack<float, true>) : run(repack<float, false>);
}

} // namespace pfk::cuda
