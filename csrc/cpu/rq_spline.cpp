// rq_spline on the CPU: groups of 16 elements, one a lane, whose params are brought into rows of 16, a row a parameter;
// there the logits become weights, the bin is found and the spline evaluated. Compiled once per instruction set.

#include "../math/rq_spline.h"
#include "masked.h"
#include "spline.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kElements = 64; // of a tile: several short rows, or a stretch of a long one
constexpr int64_t kGroups = kElements / kLanes;

// ---- arithmetic on one group ---------------------------------------------------------------------------------------

template <class A> struct FoundLanes {
    alignas(64) A folded[kLanes], width_over[kLanes], height_over[kLanes]; // one over the sum of the weights
    alignas(64) A index[kLanes], width_before[kLanes], width_own[kLanes], height_before[kLanes], height_own[kLanes];
    alignas(64) A raw[2 * kLanes], d[2 * kLanes]; // of both ends

    PFK_HD_MEMBER Found<A> at(int64_t l) const {
        return {index[l], width_before[l], width_own[l], height_before[l], height_own[l], d[l], d[kLanes + l]};
    }
};

template <class A> PFK_HD const typename RegisterOf<A>::Type& lanes_at(const A* from) {
    return *reinterpret_cast<const typename RegisterOf<A>::Type*>(from);
}
template <class A> PFK_HD void put(A* to, typename RegisterOf<A>::Type value) {
    *reinterpret_cast<typename RegisterOf<A>::Type*>(to) = value;
}

// Logits of `bins` rows become weights e^(logit - largest).
template <bool Clips, class A>
inline __attribute__((always_inline)) void weigh(const SplineShape<A>& shape, A* rows, int bins, A* over_sum) {
    using V = typename RegisterOf<A>::Type;
    alignas(64) A largest[kLanes];
    for (int64_t l = 0; l < kLanes; l += RegisterOf<A>::lanes) {
        V most = lanes_at(rows + l);
        for (int k = 1; k < bins; ++k) {
            const V logit = lanes_at(rows + k * kLanes + l);
            most = logit > most ? logit : most;
        }
        put(largest + l, most);
    }
    if (Clips) // which keeps the order
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l)
            largest[l] = logit_of(Clips, shape, largest[l]);
    for (int k = 0; k < bins; ++k)
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l)
            rows[k * kLanes + l] = weight_of(logit_of(Clips, shape, rows[k * kLanes + l]), largest[l]);
    for (int64_t l = 0; l < kLanes; l += RegisterOf<A>::lanes) {
        V sum = lanes_at(rows + l);
        for (int k = 1; k < bins; ++k)
            sum += lanes_at(rows + k * kLanes + l);
        put(over_sum + l, A(1) / sum);
    }
}

// Weighs widths and heights and finds each lane's bin, by the heights for the inverse.
template <bool ByHeight, Tails K, bool Clips, class A>
inline __attribute__((always_inline)) void find(const SplineShape<A>& shape, int bins, A* rows, const A* x,
                                                FoundLanes<A>& f) {
    using V = typename RegisterOf<A>::Type;
    alignas(64) const A end[kLanes] = {}; // the raw slope of a knot whose slope is 1
    A *const widths = rows, *const heights = rows + bins * kLanes, *const slopes = heights + bins * kLanes;
    weigh<Clips>(shape, widths, bins, f.width_over);
    weigh<Clips>(shape, heights, bins, f.height_over);
    const A floor = ByHeight ? shape.height_floor : shape.width_floor;
    const A share = ByHeight ? shape.height_share : shape.width_share;
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l)
        f.folded[l] = fold(shape, K, x[l]);
    const auto raw_of = [&](int knot) {
        const int row = slope_of_knot(K, bins, knot);
        return row < 0 ? static_cast<const A*>(end) : slopes + row * kLanes;
    };
    for (int64_t l = 0; l < kLanes; l += RegisterOf<A>::lanes) {
        const V folded = lanes_at(f.folded + l), zero = {};
        const V scale = share * lanes_at((ByHeight ? f.height_over : f.width_over) + l);
        V index = zero, width_before = zero, height_before = zero, raw0 = lanes_at(raw_of(0) + l);
        V next = lanes_at(raw_of(1) + l), raw1 = next;
        V width_own = lanes_at(widths + l), height_own = lanes_at(heights + l);
        V width_sum = width_own, height_sum = height_own;
        for (int k = 1; k < bins; ++k) {
            const V width = lanes_at(widths + k * kLanes + l), height = lanes_at(heights + k * kLanes + l);
            const V raw = next;
            next = lanes_at(raw_of(k + 1) + l);
            const auto reached = folded >= knot(shape.low, floor, scale, A(k), ByHeight ? height_sum : width_sum);
            index = reached ? zero + A(k) : index;
            width_before = reached ? width_sum : width_before;
            width_own = reached ? width : width_own;
            height_before = reached ? height_sum : height_before;
            height_own = reached ? height : height_own;
            raw0 = reached ? raw : raw0;
            raw1 = reached ? next : raw1;
            width_sum += width;
            height_sum += height;
        }
        put(f.index + l, index);
        put(f.width_before + l, width_before);
        put(f.width_own + l, width_own);
        put(f.height_before + l, height_before);
        put(f.height_own + l, height_own);
        put(f.raw + l, raw0);
        put(f.raw + kLanes + l, raw1);
    }
#pragma omp simd
    for (int64_t l = 0; l < 2 * kLanes; ++l)
        f.d[l] = slope_of(Clips, shape, f.raw[l]);
}

template <bool Inverse, Tails K, bool Clips, class A>
void move_group(const SplineShape<A>& given, int bins, A* rows, const A* x, A* y, A* slope) {
    const SplineShape<A> shape = given; // the compiler must see that no store changes it
    FoundLanes<A> f;
    find<Inverse, K, Clips>(shape, bins, rows, x, f);
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
        const Bin<A> bin =
            bin_of(shape, f.at(l), shape.width_share * f.width_over[l], shape.height_share * f.height_over[l]);
        A slope_here;
        y[l] = spline(Inverse, K, shape, bin, x[l], f.folded[l], slope_here);
        slope[l] = slope_here;
    }
}

// Leaves the gradients of the params in their rows.
template <bool Inverse, Tails K, bool Clips, class A>
void gradient_group(const SplineShape<A>& given, int bins, A* rows, const A* u, const A* dy, const A* dladj, A* dx) {
    const SplineShape<A> shape = given;
    const int64_t logits = 2 * bins * kLanes;
    alignas(64) A bend[Clips ? kMostSplineParams * kLanes : 1]; // of every logit by its clip
    if (Clips)
#pragma omp simd
        for (int64_t i = 0; i < logits; ++i)
            bend[i] = logit_slope(shape, rows[i]);
    FoundLanes<A> f;
    find<false, K, Clips>(shape, bins, rows, u, f);
    alignas(64) A left[kLanes], width[kLanes], bottom[kLanes], height[kLanes], raw0[kLanes], raw1[kLanes];
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
        const Bin<A> bin =
            bin_of(shape, f.at(l), shape.width_share * f.width_over[l], shape.height_share * f.height_over[l]);
        const auto g = spline_gradient(Inverse, K, Clips, shape, bin, f.raw[l], f.raw[kLanes + l], u[l], f.folded[l],
                                       dy[l], dladj[l]);
        dx[l] = g.x;
        left[l] = g.left;
        width[l] = g.width;
        bottom[l] = g.bottom;
        height[l] = g.height;
        raw0[l] = g.raw0;
        raw1[l] = g.raw1;
    }
    const auto spread = [&](A* logits, const A* before, const A* here, const A* weight_before, const A* weight_own,
                            const A* over_sum, A share) __attribute__((always_inline)) {
        alignas(64) A mean[kLanes], scale[kLanes];
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l) {
            const auto g =
                LogitGradient<A>::of(before[l], here[l], weight_before[l], weight_own[l], share, over_sum[l]);
            mean[l] = g.mean;
            scale[l] = g.scale;
        }
        for (int k = 0; k < bins; ++k)
#pragma omp simd
            for (int64_t l = 0; l < kLanes; ++l) {
                const LogitGradient<A> g = {before[l], here[l], mean[l], scale[l]};
                logits[k * kLanes + l] = g.at(A(k), f.index[l], logits[k * kLanes + l]);
            }
    };
    spread(rows, left, width, f.width_before, f.width_own, f.width_over, shape.width_share);
    spread(rows + bins * kLanes, bottom, height, f.height_before, f.height_own, f.height_over, shape.height_share);
    if (Clips)
#pragma omp simd
        for (int64_t i = 0; i < logits; ++i)
            rows[i] *= bend[i];
    A* const slopes = rows + 2 * bins * kLanes;
    const int free = free_slopes(K, bins);
    for (int j = 0; j < free; ++j) {
        const A knot = A(K == Tails::Linear ? j + 1 : j); // and, on a circle, knot 0 is the last one too
        const bool twice = K == Tails::Circular && j == 0;
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l) {
            const A end = f.index[l] + A(1);
            slopes[j * kLanes + l] =
                (f.index[l] == knot ? raw0[l] : A(0)) + (end == knot || (twice && end == A(bins)) ? raw1[l] : A(0));
        }
    }
}

// ---- params between memory and rows --------------------------------------------------------------------------------

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int FourInts __attribute__((vector_size(16)));

// Four elements of four neighbouring floats, `from_step` apart, become four rows of them, `to_step` apart.
PFK_HD void transpose(const float* from, int64_t from_step, float* to, int64_t to_step) {
    const auto at = [&](int64_t i) { return *reinterpret_cast<const Four*>(from + i * from_step); };
    const Four a = at(0), b = at(1), c = at(2), d = at(3);
    const FourInts low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
    const Four p = __builtin_shuffle(a, b, low), q = __builtin_shuffle(c, d, low);
    const Four r = __builtin_shuffle(a, b, high), s = __builtin_shuffle(c, d, high);
    const Four rows[4] = {__builtin_shuffle(p, q, first), __builtin_shuffle(p, q, second),
                          __builtin_shuffle(r, s, first), __builtin_shuffle(r, s, second)};
    for (int64_t i = 0; i < 4; ++i)
        *reinterpret_cast<Four*>(to + i * to_step) = rows[i];
}

// How the params of one element lie in memory.
struct Layout {
    int64_t count, step, stride; // step: to the same parameter of the next element; stride: to the next parameter
};

template <class P, class A> void bring(const P* from, const Layout& layout, int64_t lanes, A* rows) {
    const int64_t step = layout.step, stride = layout.stride, count = layout.count;
    int64_t done = 0;
    if (step == 1) {
        for (int64_t p = 0; p < count; ++p)
            for (int64_t l = 0; l < lanes; ++l)
                rows[p * kLanes + l] = load<A>(from[p * stride + l]);
        return;
    }
    if constexpr (sizeof(P) == sizeof(float)) // float: no other type has its size
        if (stride == 1)
            for (; done + 4 <= lanes; done += 4)
                for (int64_t p = 0; p < count; p += 4) { // count is at least 5; the last block overlaps
                    const int64_t q = p + 4 <= count ? p : count - 4;
                    transpose(from + done * step + q, step, rows + q * kLanes + done, kLanes);
                }
    for (int64_t l = done; l < lanes; ++l)
        for (int64_t p = 0; p < count; ++p)
            rows[p * kLanes + l] = load<A>(from[l * step + p * stride]);
}

template <class P, class A> void take_back(const A* rows, const Layout& layout, int64_t lanes, P* to) {
    const int64_t step = layout.step, stride = layout.stride, count = layout.count;
    int64_t done = 0;
    if (step == 1) {
        for (int64_t p = 0; p < count; ++p)
            for (int64_t l = 0; l < lanes; ++l)
                store(to[p * stride + l], rows[p * kLanes + l]);
        return;
    }
    if constexpr (sizeof(P) == sizeof(float))
        if (stride == 1)
            for (; done + 4 <= lanes; done += 4)
                for (int64_t p = 0; p < count; p += 4) {
                    const int64_t q = p + 4 <= count ? p : count - 4;
                    transpose(rows + q * kLanes + done, kLanes, to + done * step + q, step);
                }
    for (int64_t l = done; l < lanes; ++l)
        for (int64_t p = 0; p < count; ++p)
            store(to[l * step + p * stride], rows[p * kLanes + l]);
}

// Calls part(offset, first group position, lanes) for the pieces of [position, position + length) in each group.
template <class Part> void by_groups(int64_t position, int64_t length, Part part) {
    for (int64_t done = 0; done < length;) {
        const int64_t at = position + done, room = kLanes - at % kLanes;
        const int64_t n = length - done < room ? length - done : room;
        part(done, at, n);
        done += n;
    }
}

template <class A> struct Tile {
    alignas(64) A x[kElements], y[kElements], slope[kElements], dladj[kElements], dx[kElements];
    alignas(64) A params[kGroups * kMostSplineParams * kLanes];

    Tile(int64_t count) : group(count * kLanes) {
        for (int64_t i = 0; i < kElements; ++i)
            x[i] = y[i] = dladj[i] = slope[i] = A(0);
        __builtin_memset(params, 0, static_cast<size_t>(kGroups * group) * sizeof(A));
    }
    A* rows(int64_t position) { return params + position / kLanes * group; }

    int64_t group; // elements of the rows of one group
};

// ---- rows ----------------------------------------------------------------------------------------------------------

template <class T, class P, class A>
void forward(const RqSpline& p, const SplineArithmetic<A>& arithmetic, int64_t begin, int64_t end) {
    const Runs runs = runs_of(p.event);
    const Layout layout = {p.event.params, runs.param_step, runs.shift};
    const SplineShape<A> shape = p.spline.shape<A>();
    const Identity identity(p.event, p.size);
    const Walk first_walk(p.event, runs);
    Walk walk = first_walk;
    RowSum<A> sum;
    Tile<A> tile(layout.count);
    for_tiles<kElements>(
        begin, end, moved_elements(p.event), [&](int64_t first, int64_t last, int64_t n, bool starts, bool ends) {
            const Walk start = starts ? first_walk : walk;
            const int64_t all = (last - first) * n;
            for (int64_t row = first, at = 0; row < last; ++row, at += n) {
                const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
                const P* params = static_cast<const P*>(p.params) + row * p.params_stride;
                if (starts)
                    identity.copy(x, static_cast<T*>(p.y) + row * p.size);
                walk = start;
                walk.go(n, [&](int64_t xo, int64_t po, int64_t position, int64_t length) {
                    gather(x + xo, runs.x_step, tile.x + at + position, length);
                    by_groups(at + position, length, [&](int64_t done, int64_t to, int64_t lanes) {
                        bring(params + po + done * layout.step, layout, lanes, tile.rows(to) + to % kLanes);
                    });
                });
            }
            for (int64_t l = 0; l < all; l += kLanes)
                arithmetic.move(shape, p.spline.bins, tile.rows(l), tile.x + l, tile.y + l, tile.slope + l);
#pragma omp simd
            for (int64_t i = 0; i < kElements; ++i)
                tile.slope[i] = log(tile.slope[i]);
            for (int64_t row = first, at = 0; row < last; ++row, at += n) {
                T* y = static_cast<T*>(p.y) + row * p.size;
                walk = start;
                walk.go(n, [&](int64_t xo, int64_t, int64_t position, int64_t length) {
                    scatter(tile.y + at + position, y + xo, runs.x_step, length);
                });
                if (starts)
                    sum = {};
                sum.add(tile.slope + at, n);
                if (ends) {
                    const A total = sum.total();
                    static_cast<A*>(p.ladj)[row] = p.spline.inverse ? -total : total;
                }
            }
        });
}

template <class T, class P, class A>
void backward(const RqSplineBackward& p, const SplineArithmetic<A>& arithmetic, int64_t begin, int64_t end) {
    const Runs runs = runs_of(p.event);
    const Layout layout = {p.event.params, runs.param_step, runs.shift};
    const SplineShape<A> shape = p.spline.shape<A>();
    const Identity identity(p.event, p.size);
    const Walk first_walk(p.event, runs);
    Walk walk = first_walk;
    Tile<A> tile(layout.count);
    for_tiles<kElements>(
        begin, end, moved_elements(p.event), [&](int64_t first, int64_t last, int64_t n, bool starts, bool) {
            const Walk start = starts ? first_walk : walk;
            const int64_t all = (last - first) * n;
            for (int64_t row = first, at = 0; row < last; ++row, at += n) {
                const T* u = static_cast<const T*>(p.u) + row * p.u_stride;
                const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
                const P* params = static_cast<const P*>(p.params) + row * p.params_stride;
                if (starts) {
                    identity.copy(dy, static_cast<T*>(p.dx) + row * p.size);
                    if (is_checkerboard(p.event.mask)) // params at identity positions have no influence
                        __builtin_memset(static_cast<P*>(p.dparams) + row * p.param_size, 0,
                                         static_cast<size_t>(p.param_size) * sizeof(P));
                }
                walk = start;
                walk.go(n, [&](int64_t xo, int64_t po, int64_t position, int64_t length) {
                    gather(u + xo, runs.x_step, tile.x + at + position, length);
                    gather(dy + xo, runs.x_step, tile.y + at + position, length);
                    by_groups(at + position, length, [&](int64_t done, int64_t to, int64_t lanes) {
                        bring(params + po + done * layout.step, layout, lanes, tile.rows(to) + to % kLanes);
                    });
                });
                const A dladj = static_cast<const A*>(p.dladj)[row * p.dladj_stride];
                for (int64_t i = 0; i < n; ++i)
                    tile.dladj[at + i] = dladj;
            }
            for (int64_t l = 0; l < all; l += kLanes)
                arithmetic.gradient(shape, p.spline.bins, tile.rows(l), tile.x + l, tile.y + l, tile.dladj + l,
                                    tile.dx + l);
            for (int64_t row = first, at = 0; row < last; ++row, at += n) {
                T* dx = static_cast<T*>(p.dx) + row * p.size;
                P* dparams = static_cast<P*>(p.dparams) + row * p.param_size;
                walk = start;
                walk.go(n, [&](int64_t xo, int64_t po, int64_t position, int64_t length) {
                    scatter(tile.dx + at + position, dx + xo, runs.x_step, length);
                    by_groups(at + position, length, [&](int64_t done, int64_t from, int64_t lanes) {
                        take_back(tile.rows(from) + from % kLanes, layout, lanes, dparams + po + done * layout.step);
                    });
                });
            }
        });
}

// ---- from run-time choices to templates ----------------------------------------------------------------------------

template <class A, bool Inverse, bool Clips> SplineArithmetic<A> arithmetic_of(Tails tails) {
    switch (tails) {
    case Tails::Bounded:
        return {move_group<Inverse, Tails::Bounded, Clips, A>, gradient_group<Inverse, Tails::Bounded, Clips, A>};
    case Tails::Circular:
        return {move_group<Inverse, Tails::Circular, Clips, A>, gradient_group<Inverse, Tails::Circular, Clips, A>};
    case Tails::Linear:
        break;
    }
    return {move_group<Inverse, Tails::Linear, Clips, A>, gradient_group<Inverse, Tails::Linear, Clips, A>};
}

template <class A, bool Inverse> SplineArithmetic<A> arithmetic_of(const Spline& spline) {
    return spline.clips ? arithmetic_of<A, Inverse, true>(spline.tails)
                        : arithmetic_of<A, Inverse, false>(spline.tails);
}

} // namespace

namespace PFK_ISA {

template <class A> SplineArithmetic<A> spline_arithmetic(const Spline& spline) {
    return spline.inverse ? arithmetic_of<A, true>(spline) : arithmetic_of<A, false>(spline);
}
template SplineArithmetic<float> spline_arithmetic(const Spline&);
template SplineArithmetic<double> spline_arithmetic(const Spline&);

void rq_spline(const RqSpline& p, int64_t begin, int64_t end) {
    with_types(p.state, p.param, [&](auto state, auto param) {
        using A = typename Accumulator<decltype(state)>::Type;
        forward<decltype(state), decltype(param), A>(p, spline_arithmetic<A>(p.spline), begin, end);
    });
}

void rq_spline_backward(const RqSplineBackward& p, int64_t begin, int64_t end) {
    with_types(p.state, p.param, [&](auto state, auto param) {
        using A = typename Accumulator<decltype(state)>::Type;
        backward<decltype(state), decltype(param), A>(p, spline_arithmetic<A>(p.spline), begin, end);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
