// rk_combine, rk_error and rk_control on the CPU, in tiles: many short dense rows, or a stretch of a long one, each
// element with its row's step beside it. The arithmetic is unrolled for every number of slopes: a loop over slopes of a
// length known only at run time costs 1.6 times as much. 16-bit types are staged through float.

#include "../math/rk_step.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

// ---- arithmetic on a tile -------------------------------------------------------------------------------------------

template <int N, class A> struct Sum {
    const A* k[N];
    A weight[N];

    Sum(const A* const* slopes, const A* weights) {
        for (int j = 0; j < N; ++j) {
            k[j] = slopes[j];
            weight[j] = weights[j];
        }
    }
    __attribute__((always_inline)) A at(int64_t i) const {
        return weighted<N>(weight, [&](int j) { return k[j][i]; });
    }
};

template <int N, class A> void combine(const A* y, const A* const* k, const A* weights, const A* h, A* out, int64_t n) {
    const Sum<N, A> sum(k, weights);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
        out[i] = y[i] + h[i] * sum.at(i);
}

template <int N, class A>
void combine_backward(const A* dy, const A* const* k, const A* weights, const A* h, A* const* dk, A* product,
                      int64_t n) {
    const Sum<N, A> sum(k, weights);
    A* to[N];
    for (int j = 0; j < N; ++j)
        to[j] = dk[j];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const A scaled = h[i] * dy[i];
        product[i] = dy[i] * sum.at(i);
#pragma GCC unroll 16
        for (int j = 0; j < N; ++j)
            to[j][i] = sum.weight[j] * scaled;
    }
}

template <int N, class A>
void error(const A* y0, const A* y1, const A* const* k, const A* weights, const A* h, A rtol, A atol, A* square,
           int64_t n) {
    const Sum<N, A> sum(k, weights);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const A ratio = h[i] * sum.at(i) / (atol + rtol * larger_magnitude(y0[i], y1[i]));
        square[i] = ratio * ratio;
    }
}

template <class A> struct Arithmetic {
    decltype(&combine<1, A>) forward;
    decltype(&combine_backward<1, A>) backward;
    decltype(&error<1, A>) square;
};

template <class A, int N = 1> Arithmetic<A> arithmetic_of(int count) {
    if constexpr (N < kMostSlopes)
        if (count > N)
            return arithmetic_of<A, N + 1>(count);
    return {combine<N, A>, combine_backward<N, A>, error<N, A>};
}

// ---- tiles ----------------------------------------------------------------------------------------------------------

// Where the elements lie: in place where memory holds what arithmetic wants, else in a buffer.
template <class T, class A> struct Stage {
    alignas(64) A buffer[kTile];
    const A* in(const T* from, int64_t n) {
        gather(from, 1, buffer, n);
        return buffer;
    }
    A* out(T*) { return buffer; }
    void done(T* to, int64_t n) { scatter(buffer, to, 1, n); }
};
template <class A> struct Stage<A, A> {
    const A* in(const A* from, int64_t) { return from; }
    A* out(A* to) { return to; }
    void done(A*, int64_t) {}
};

template <class T> const T* at(const void* base, int64_t row, int64_t stride, int64_t offset) {
    return static_cast<const T*>(base) + row * stride + offset;
}
template <class T> T* at(void* base, int64_t row, int64_t stride, int64_t offset) {
    return static_cast<T*>(base) + row * stride + offset;
}

template <class T, class A> struct StagedSlopes {
    const A* k[kMostSlopes];
    A weight[kMostSlopes];
    Stage<T, A> stage[kMostSlopes];

    explicit StagedSlopes(const Slopes& s) {
        for (int j = 0; j < s.count; ++j)
            weight[j] = static_cast<A>(s.weight[j]);
    }
    void load(const Slopes& s, int64_t row, int64_t offset, int64_t n) {
        for (int j = 0; j < s.count; ++j)
            k[j] = stage[j].in(at<T>(s.k[j], row, s.stride[j], offset), n);
    }
};

// Calls tile(row, rows, offset, elements, steps): whole rows if they are short and dense, or elements of one.
template <class A, class Steps, class Tile>
void for_tiles(int64_t begin, int64_t end, int64_t size, bool dense, Steps step, Tile tile) {
    alignas(64) A buffer[kTile];
    if (size <= kTile / 4 && dense) {
        const int64_t most = size > 0 ? kTile / size : end - begin;
        for (int64_t row = begin; row < end; row += most) {
            const int64_t rows = row + most < end ? most : end - row;
            A* next = buffer;
            for (int64_t r = 0; r < rows; ++r) {
                const A h = step(row + r);
                for (int64_t e = 0; e < size; ++e)
                    *next++ = h;
            }
            tile(row, rows, int64_t(0), rows * size, buffer);
        }
        return;
    }
    for (int64_t row = begin; row < end; ++row) {
        const A h = step(row);
        for (int64_t i = 0; i < (size < kTile ? size : kTile); ++i)
            buffer[i] = h;
        for (int64_t offset = 0; offset < size; offset += kTile)
            tile(row, int64_t(1), offset, size - offset < kTile ? size - offset : kTile, buffer);
    }
}

template <class A> struct Steps {
    const A* h;
    int64_t stride;

    Steps(const void* steps, int64_t h_stride) : h(static_cast<const A*>(steps)), stride(h_stride) {}
    __attribute__((always_inline)) A operator()(int64_t row) const { return h[row * stride]; }
};

bool dense(const Slopes& s, int64_t size) {
    for (int j = 0; j < s.count; ++j)
        if (s.stride[j] != size)
            return false;
    return true;
}

// Rows' sums from the tiles in their order; a row's own order does not depend on how it came in tiles.
template <class A> struct RowSums {
    RowSum<A> sum;

    static A whole_row(const A* values, int64_t size) {
        if (size > kLanes / 2) {
            RowSum<A> whole;
            whole.add(values, size);
            return whole.total();
        }
        A total = 0; // lanes would be mostly empty
        for (int64_t e = 0; e < size; ++e)
            total += values[e];
        return total;
    }

    template <class Done>
    void add(const A* values, int64_t row, int64_t rows, int64_t offset, int64_t n, int64_t size, Done done) {
        if (n == rows * size && offset == 0) {
            for (int64_t r = 0; r < rows; ++r)
                done(row + r, whole_row(values + r * size, size));
            return;
        }
        if (offset == 0)
            sum = {};
        sum.add(values, n);
        if (offset + n == size)
            done(row, sum.total());
    }
};

template <class T, class A> void combine_rows(const RkCombine& p, int64_t begin, int64_t end) {
    const bool together = p.y_stride == p.size && dense(p.slopes, p.size);
    const auto forward = arithmetic_of<A>(p.slopes.count).forward;
    StagedSlopes<T, A> slopes(p.slopes);
    Stage<T, A> y, out;
    for_tiles<A>(begin, end, p.size, together, Steps<A>(p.h, p.h_stride),
                 [&](int64_t row, int64_t, int64_t offset, int64_t n, const A* h) {
                     slopes.load(p.slopes, row, offset, n);
                     T* to = at<T>(p.out, row, p.size, offset);
                     forward(y.in(at<T>(p.y, row, p.y_stride, offset), n), slopes.k, slopes.weight, h, out.out(to), n);
                     out.done(to, n);
                 });
}

template <class T, class A> void combine_backward_rows(const RkCombineBackward& p, int64_t begin, int64_t end) {
    const bool together = p.dy_stride == p.size && dense(p.slopes, p.size);
    const auto backward = arithmetic_of<A>(p.slopes.count).backward;
    StagedSlopes<T, A> slopes(p.slopes);
    Stage<T, A> dy, dk[kMostSlopes];
    RowSums<A> sums;
    alignas(64) A product[kTile];
    for_tiles<A>(begin, end, p.size, together, Steps<A>(p.h, p.h_stride),
                 [&](int64_t row, int64_t rows, int64_t offset, int64_t n, const A* h) {
                     slopes.load(p.slopes, row, offset, n);
                     const T* from = at<T>(p.dy, row, p.dy_stride, offset);
                     A* to[kMostSlopes];
                     for (int j = 0; j < p.slopes.count; ++j)
                         to[j] = dk[j].out(at<T>(p.dk[j], row, p.size, offset));
                     backward(dy.in(from, n), slopes.k, slopes.weight, h, to, product, n);
                     for (int j = 0; j < p.slopes.count; ++j)
                         dk[j].done(at<T>(p.dk[j], row, p.size, offset), n);
                     copy(from, at<T>(p.dstate, row, p.size, offset), n);
                     sums.add(product, row, rows, offset, n, p.size,
                              [&](int64_t r, A sum) { static_cast<A*>(p.dh)[r] = sum; });
                 });
    for (int64_t row = begin; p.size == 0 && row < end; ++row)
        static_cast<A*>(p.dh)[row] = A(0);
}

float root(float x) { return __builtin_sqrtf(x); }
double root(double x) { return __builtin_sqrt(x); }

template <class T, class A> void error_rows(const RkError& p, int64_t begin, int64_t end) {
    const bool together = p.y0_stride == p.size && p.y1_stride == p.size && dense(p.slopes, p.size);
    const auto square = arithmetic_of<A>(p.slopes.count).square;
    const A rtol = static_cast<A>(p.rtol), atol = static_cast<A>(p.atol), count = static_cast<A>(p.size);
    StagedSlopes<T, A> slopes(p.slopes);
    Stage<T, A> y0, y1;
    RowSums<A> sums;
    alignas(64) A squares[kTile];
    for_tiles<A>(begin, end, p.size, together, Steps<A>(p.h, p.h_stride),
                 [&](int64_t row, int64_t rows, int64_t offset, int64_t n, const A* h) {
                     slopes.load(p.slopes, row, offset, n);
                     square(y0.in(at<T>(p.y0, row, p.y0_stride, offset), n),
                            y1.in(at<T>(p.y1, row, p.y1_stride, offset), n), slopes.k, slopes.weight, h, rtol, atol,
                            squares, n);
                     sums.add(squares, row, rows, offset, n, p.size,
                              [&](int64_t r, A sum) { static_cast<A*>(p.norm)[r] = root(sum / count); });
                 });
    for (int64_t row = begin; p.size == 0 && row < end; ++row)
        static_cast<A*>(p.norm)[row] = A(0);
}

template <class T, class A> struct Advance {
    const RkControl& p;
    const bool pid = p.control.exponent[1] != 0 || p.control.exponent[2] != 0;

    template <bool Pid> void turn(int64_t row, A norm) const {
        const double* before = p.clock + row * p.clock_stride;
        double* after = p.after + row * kClock;
        advance_clock<Pid>(
            p.control, static_cast<double>(norm), [&](int column) { return before[column]; },
            [&](int column, double value) { after[column] = value; });
        stage_times(p, [&](int column) { return after[column]; }, at<A>(p.times, row, p.stages + 1, 0));
    }

    // What a row goes on with, its norm known.
    void operator()(int64_t row, A norm) const {
        pid ? turn<true>(row, norm) : turn<false>(row, norm);
        const bool good = p.after[row * kClock + kGood] != 0;
        copy_row(good ? at<T>(p.y1, row, p.y1_stride, 0) : at<T>(p.y0, row, p.y0_stride, 0), at<T>(p.y, row, p.size, 0),
                 p.size);
        copy_row(good ? at<T>(p.k1, row, p.k1_stride, 0) : at<T>(p.k0, row, p.k0_stride, 0), at<T>(p.k, row, p.size, 0),
                 p.size);
    }
};

template <class T, class A> void control_rows(const RkControl& p, int64_t begin, int64_t end) {
    const bool together = p.y0_stride == p.size && p.y1_stride == p.size && dense(p.slopes, p.size);
    const auto square = arithmetic_of<A>(p.slopes.count).square;
    const A rtol = static_cast<A>(p.control.rtol), atol = static_cast<A>(p.control.atol);
    const A count = static_cast<A>(p.size);
    const Advance<T, A> advance{p};
    StagedSlopes<T, A> slopes(p.slopes);
    Stage<T, A> y0, y1;
    RowSums<A> sums;
    alignas(64) A squares[kTile];
    const auto step = [&](int64_t row) { return static_cast<A>(p.clock[row * p.clock_stride + kStep]); };
    for_tiles<A>(
        begin, p.size > 0 ? end : begin, p.size, together, step,
        [&](int64_t row, int64_t rows, int64_t offset, int64_t n, const A* h) {
            slopes.load(p.slopes, row, offset, n);
            square(y0.in(at<T>(p.y0, row, p.y0_stride, offset), n), y1.in(at<T>(p.y1, row, p.y1_stride, offset), n),
                   slopes.k, slopes.weight, h, rtol, atol, squares, n);
            sums.add(squares, row, rows, offset, n, p.size, [&](int64_t r, A sum) { advance(r, root(sum / count)); });
        });
    for (int64_t row = begin; p.size == 0 && row < end; ++row)
        advance(row, A(0));
}

} // namespace

namespace PFK_ISA {

void rk_combine(const RkCombine& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto t, auto a) { combine_rows<decltype(t), decltype(a)>(p, begin, end); });
}

void rk_combine_backward(const RkCombineBackward& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto t, auto a) { combine_backward_rows<decltype(t), decltype(a)>(p, begin, end); });
}

void rk_error(const RkError& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto t, auto a) { error_rows<decltype(t), decltype(a)>(p, begin, end); });
}

void rk_control(const RkControl& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto t, auto a) { control_rows<decltype(t), decltype(a)>(p, begin, end); });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
