// rk_combine, rk_error and rk_control on the GPU. A row belongs to a few lanes, a warp, a block or several, by its size
// alone, so that its sum is the same in every batch: several blocks leave theirs in scratch memory, and a second launch
// adds them. Rows that 128-bit accesses fit into take the path that is unrolled for the number of slopes; everything
// else goes element by element, for any number.

#include "../math/rk_step.h"
#include "rows.cuh"

namespace pfk::cuda {
namespace {

// ---- slopes: N of them, or as many as there are ---------------------------------------------------------------------

template <class T, class A> struct Pointers {
    const T* k[kMostSlopes];
    int64_t stride[kMostSlopes];
    A weight[kMostSlopes];
    int count;
};

template <class T, class A> Pointers<T, A> pointers_of(const Slopes& s) {
    Pointers<T, A> pointers = {};
    for (int j = 0; j < s.count; ++j) {
        pointers.k[j] = static_cast<const T*>(s.k[j]);
        pointers.stride[j] = s.stride[j];
        pointers.weight[j] = static_cast<A>(s.weight[j]);
    }
    pointers.count = s.count;
    return pointers;
}

// Calls body(j) for every slope; Count 0 stands for a number that is known at the launch only.
template <int Count, class Body> PFK_DEVICE void for_slopes(int count, Body body) {
#pragma unroll
    for (int j = 0; j < (Count > 0 ? Count : kMostSlopes); ++j)
        if (Count > 0 || j < count)
            body(j);
}

// sum_j w_j k_j of the unit's elements
template <int Count, int N, class T, class A>
PFK_DEVICE void slope_of(const Pointers<T, A>& s, int64_t row, int64_t unit, A* sum) {
#pragma unroll
    for (int i = 0; i < N; ++i)
        sum[i] = 0;
    for_slopes<Count>(s.count, [&](int j) {
        const Vec<T, N> k = vload<N>(s.k[j] + row * s.stride[j] + unit * N);
#pragma unroll
        for (int i = 0; i < N; ++i)
            sum[i] += s.weight[j] * A(widen(k[i]));
    });
}

// Blocks of a multiprocessor: as many as the registers of so many slopes allow, whose loads keep its memory as busy.
// Without a number ptxas spills some registers to have more.
template <class T, int Count> constexpr int at_once = sizeof(T) == 8 ? 2 : Count > 5 ? 3 : 4;

// ---- kernels -------------------------------------------------------------------------------------------------------

// What every kernel is called with; the launcher settles the schedule. Pieces of row b leave their sums at b * pieces.
template <class T, class A> struct Rows {
    Schedule schedule;
    Pointers<T, A> slopes;
    int64_t rows, size;
    A* sums;

    template <class Problem>
    Rows(const Problem& p, void* scratch)
        : schedule{}, slopes(pointers_of<T, A>(p.slopes)), rows(p.rows), size(p.size), sums(static_cast<A*>(scratch)) {}
};

template <class T, class A> struct Combine : Rows<T, A> {
    int64_t y_stride, h_stride;
    const T* y;
    const A* h;
    T* out;

    explicit Combine(const RkCombine& p)
        : Rows<T, A>(p, nullptr), y_stride(p.y_stride), h_stride(p.h_stride), y(static_cast<const T*>(p.y)),
          h(static_cast<const A*>(p.h)), out(static_cast<T*>(p.out)) {}
};

template <class T, class A, int N, int Count>
__global__ void __launch_bounds__(kThreads, at_once<T, Count>) combine(const Combine<T, A> p) {
    const Share share(p.schedule);
    if (share.row >= p.rows)
        return;
    const A h = p.h[share.row * p.h_stride];
    for (int64_t unit = share.first; unit < share.end; unit += p.schedule.lanes) {
        A sum[N];
        slope_of<Count, N>(p.slopes, share.row, unit, sum);
        Vec<T, N> value = vload<N>(p.y + share.row * p.y_stride + unit * N);
#pragma unroll
        for (int i = 0; i < N; ++i)
            value[i] = narrow<T>(A(widen(value[i])) + h * sum[i]);
        vstore(p.out + share.row * p.size + unit * N, value);
    }
}

template <class T, class A> struct CombineBackward : Rows<T, A> {
    int64_t dy_stride, h_stride;
    const T* dy;
    const A* h;
    T* dstate;
    A* dh;
    T* dk[kMostSlopes];

    explicit CombineBackward(const RkCombineBackward& p)
        : Rows<T, A>(p, p.scratch), dy_stride(p.dy_stride), h_stride(p.h_stride), dy(static_cast<const T*>(p.dy)),
          h(static_cast<const A*>(p.h)), dstate(static_cast<T*>(p.dstate)), dh(static_cast<A*>(p.dh)), dk{} {
        for (int j = 0; j < p.slopes.count; ++j)
            dk[j] = static_cast<T*>(p.dk[j]);
    }
};

template <class T, class A, int N, int Count>
__global__ void __launch_bounds__(kThreads, at_once<T, Count>) combine_backward(const CombineBackward<T, A> p) {
    const Share share(p.schedule);
    A total = 0;
    if (share.row < p.rows) {
        const A h = p.h[share.row * p.h_stride];
        for (int64_t unit = share.first; unit < share.end; unit += p.schedule.lanes) {
            A sum[N];
            slope_of<Count, N>(p.slopes, share.row, unit, sum);
            const Vec<T, N> dy = vload<N>(p.dy + share.row * p.dy_stride + unit * N);
#pragma unroll
            for (int i = 0; i < N; ++i)
                total += A(widen(dy[i])) * sum[i];
            vstore(p.dstate + share.row * p.size + unit * N, dy);
            for_slopes<Count>(p.slopes.count, [&](int j) {
                Vec<T, N> dk;
#pragma unroll
                for (int i = 0; i < N; ++i)
                    dk[i] = narrow<T>(p.slopes.weight[j] * (h * A(widen(dy[i]))));
                vstore(p.dk[j] + share.row * p.size + unit * N, dk);
            });
        }
    }
    total = row_sum(total, p.schedule.lanes);
    if (share.lane == 0 && share.row < p.rows)
        (p.schedule.pieces == 1 ? p.dh[share.row] : p.sums[blockIdx.x]) = total;
}

template <class T, class A> __global__ void __launch_bounds__(kThreads) add_pieces(const CombineBackward<T, A> p) {
    const A total = sum_of_pieces(p.sums, blockIdx.x, p.schedule.pieces);
    if (threadIdx.x == 0)
        p.dh[blockIdx.x] = total;
}

template <class T, class A> struct Norm : Rows<T, A> {
    int64_t y0_stride, y1_stride;
    A rtol, atol;
    const T *y0, *y1;

    template <class Problem>
    Norm(const Problem& p, double relative, double absolute)
        : Rows<T, A>(p, p.scratch), y0_stride(p.y0_stride), y1_stride(p.y1_stride), rtol(static_cast<A>(relative)),
          atol(static_cast<A>(absolute)), y0(static_cast<const T*>(p.y0)), y1(static_cast<const T*>(p.y1)) {}
};

PFK_DEVICE float root(float x) { return sqrtf(x); }
PFK_DEVICE double root(double x) { return sqrt(x); }

// The sum of squares of a thread's elements; A(0) for rows beyond the last.
template <class T, class A, int N, int Count> PFK_DEVICE A squares(const Norm<T, A>& p, const Share& share, A h) {
    A total = 0;
    if (share.row < p.rows)
        for (int64_t unit = share.first; unit < share.end; unit += p.schedule.lanes) {
            A sum[N];
            slope_of<Count, N>(p.slopes, share.row, unit, sum);
            const Vec<T, N> y0 = vload<N>(p.y0 + share.row * p.y0_stride + unit * N);
            const Vec<T, N> y1 = vload<N>(p.y1 + share.row * p.y1_stride + unit * N);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const A scale = p.atol + p.rtol * larger_magnitude(A(widen(y0[i])), A(widen(y1[i])));
                const A ratio = h * sum[i] / scale;
                total += ratio * ratio;
            }
        }
    return total;
}

template <class T, class A> PFK_DEVICE A norm_of(const Norm<T, A>& p, A total) {
    return root(total / static_cast<A>(p.size > 0 ? p.size : 1));
}

template <class T, class A> struct ErrorNorm : Norm<T, A> {
    int64_t h_stride;
    const A* h;
    A* norm;

    explicit ErrorNorm(const RkError& p)
        : Norm<T, A>(p, p.rtol, p.atol), h_stride(p.h_stride), h(static_cast<const A*>(p.h)),
          norm(static_cast<A*>(p.norm)) {}
};

template <class T, class A, int N, int Count>
__global__ void __launch_bounds__(kThreads) error(const ErrorNorm<T, A> p) {
    const Share share(p.schedule);
    const A h = share.row < p.rows ? p.h[share.row * p.h_stride] : A(0);
    const A total = row_sum(squares<T, A, N, Count>(p, share, h), p.schedule.lanes);
    if (share.lane == 0 && share.row < p.rows)
        (p.schedule.pieces == 1 ? p.norm[share.row] : p.sums[blockIdx.x]) =
            p.schedule.pieces == 1 ? norm_of(p, total) : total;
}

template <class T, class A> __global__ void __launch_bounds__(kThreads) norm_pieces(const ErrorNorm<T, A> p) {
    const A total = sum_of_pieces(p.sums, blockIdx.x, p.schedule.pieces);
    if (threadIdx.x == 0)
        p.norm[blockIdx.x] = norm_of(p, total);
}

// Rows of several blocks are measured by one launch, and judged by the next: each block for itself, by the same sum.
enum class Pass { Whole, Measure, Judge };

template <class T, class A> struct Step : Norm<T, A> {
    RkControl all;
    Pass pass = Pass::Whole;

    explicit Step(const RkControl& p) : Norm<T, A>(p, p.control.rtol, p.control.atol), all(p) {}
};

// The row's first thread turns the clock; all of them see by themselves whether the step is taken, and copy.
template <class T, class A, int N, int Count>
__global__ void __launch_bounds__(kThreads, 1) control(const Step<T, A> p) {
    const Share share(p.schedule);
    const int64_t row = share.row;
    const double* clock = p.all.clock + row * p.all.clock_stride;
    A total;
    if (p.pass == Pass::Judge)
        total = sum_of_pieces(p.sums, row, p.schedule.pieces);
    else {
        const A h = row < p.rows ? static_cast<A>(clock[kStep]) : A(0);
        total = row_sum(squares<T, A, N, Count>(p, share, h), p.schedule.lanes);
        if (p.pass == Pass::Measure) {
            if (share.lane == 0)
                p.sums[blockIdx.x] = total;
            return;
        }
    }
    if (row >= p.rows)
        return;
    const A norm = norm_of(p, total);
    const bool good = accepts(clock[kStatus], norm);
    if (share.first == 0) {
        double* after = p.all.after + row * kClock;
        const auto set = [&](int column, double value) { after[column] = value; };
        advance_clock<true>(p.all.control, static_cast<double>(norm), [&](int column) { return clock[column]; }, set);
        stage_times(
            p.all, [&](int column) { return after[column]; }, static_cast<A*>(p.all.times) + row * (p.all.stages + 1));
    }
    const T* y = good ? p.y1 + row * p.y1_stride : p.y0 + row * p.y0_stride;
    const T* k = good ? static_cast<const T*>(p.all.k1) + row * p.all.k1_stride
                      : static_cast<const T*>(p.all.k0) + row * p.all.k0_stride;
    for (int64_t unit = share.first; unit < share.end; unit += p.schedule.lanes) {
        vstore(static_cast<T*>(p.all.y) + row * p.size + unit * N, vload<N>(y + unit * N));
        vstore(static_cast<T*>(p.all.k) + row * p.size + unit * N, vload<N>(k + unit * N));
    }
}

// ---- from run-time choices to templates -----------------------------------------------------------------------------

template <int N> struct Int {
    static constexpr int value = N;
};

template <int N = 1, class Body> cudaError_t with_count(int count, Body body) {
    if constexpr (N < kMostSlopes)
        if (count > N)
            return with_count<N + 1>(count, body);
    return body(Int<N>{});
}

// kernel(n, count) is the kernel for N elements at once and Count slopes. Wide rows take the one of their number.
template <class T, class Call, class Kernel>
cudaError_t launch_rows(const Call& call, bool wide, void* stream, Kernel kernel) {
    constexpr int N = vector_width<T>;
    const auto run = [&](auto chosen) {
        return launch(chosen, call.schedule.blocks(call.rows), kThreads, 0, static_cast<cudaStream_t>(stream), call);
    };
    return wide ? with_count(call.slopes.count, [&](auto count) { return run(kernel(Int<N>{}, count)); })
                : run(kernel(Int<1>{}, Int<0>{}));
}

// A block a row, if its sum is in pieces.
template <class Call> cudaError_t launch_sums(void (*kernel)(Call), const Call& call, void* stream) {
    return call.schedule.pieces == 1
               ? cudaSuccess
               : launch(kernel, static_cast<unsigned>(call.rows), kThreads, 0, static_cast<cudaStream_t>(stream), call);
}

template <class T> bool fits(const void* data, int64_t stride) {
    return is_aligned(data) && stride % vector_width<T> == 0;
}

template <class T> bool fits(const Slopes& s, int64_t size) {
    bool all = size % vector_width<T> == 0;
    for (int j = 0; j < s.count; ++j)
        all = all && fits<T>(s.k[j], s.stride[j]);
    return all;
}

template <class Problem> int64_t scratch_of(const Problem& p) {
    const int64_t pieces = pieces_of(p.size);
    return pieces == 1 ? 0 : p.rows * pieces;
}

} // namespace

Error rk_combine(const RkCombine& p, void* stream) {
    if (p.rows == 0 || p.size == 0)
        return cudaSuccess;
    return with_type(p.type, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = arithmetic_t<T>;
        const bool wide = fits<T>(p.slopes, p.size) && fits<T>(p.y, p.y_stride) && is_aligned(p.out);
        Combine<T, A> call(p);
        call.schedule = schedule_of(p.size, wide ? vector_width<T> : 1);
        return launch_rows<T>(call, wide, stream, [](auto n, auto count) {
            return combine<T, A, decltype(n)::value, decltype(count)::value>;
        });
    });
}

int64_t rk_combine_backward_scratch(const RkCombineBackward& p) { return scratch_of(p); }

Error rk_combine_backward(const RkCombineBackward& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    return with_type(p.type, [&](auto type) -> cudaError_t {
        using T = typename decltype(type)::type;
        using A = arithmetic_t<T>;
        bool wide = fits<T>(p.slopes, p.size) && fits<T>(p.dy, p.dy_stride) && is_aligned(p.dstate);
        for (int j = 0; j < p.slopes.count; ++j)
            wide = wide && is_aligned(p.dk[j]);
        CombineBackward<T, A> call(p);
        call.schedule = schedule_of(p.size, wide ? vector_width<T> : 1);
        const cudaError_t refused = launch_rows<T>(call, wide, stream, [](auto n, auto count) {
            return combine_backward<T, A, decltype(n)::value, decltype(count)::value>;
        });
        return refused != cudaSuccess ? refused : launch_sums(add_pieces<T, A>, call, stream);
    });
}

int64_t rk_error_scratch(const RkError& p) { return scratch_of(p); }

Error rk_error(const RkError& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    return with_type(p.type, [&](auto type) -> cudaError_t {
        using T = typename decltype(type)::type;
        using A = arithmetic_t<T>;
        const bool wide = fits<T>(p.slopes, p.size) && fits<T>(p.y0, p.y0_stride) && fits<T>(p.y1, p.y1_stride);
        ErrorNorm<T, A> call(p);
        call.schedule = schedule_of(p.size, wide ? vector_width<T> : 1);
        const cudaError_t refused = launch_rows<T>(call, wide, stream, [](auto n, auto count) {
            return error<T, A, decltype(n)::value, decltype(count)::value>;
        });
        return refused != cudaSuccess ? refused : launch_sums(norm_pieces<T, A>, call, stream);
    });
}

int64_t rk_control_scratch(const RkControl& p) { return scratch_of(p); }

Error rk_control(const RkControl& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    return with_type(p.type, [&](auto type) -> cudaError_t {
        using T = typename decltype(type)::type;
        using A = arithmetic_t<T>;
        const bool wide = fits<T>(p.slopes, p.size) && fits<T>(p.y0, p.y0_stride) && fits<T>(p.y1, p.y1_stride) &&
                          fits<T>(p.k0, p.k0_stride) && fits<T>(p.k1, p.k1_stride) && is_aligned(p.y) &&
                          is_aligned(p.k);
        const auto kernel = [](auto n, auto count) {
            return control<T, A, decltype(n)::value, decltype(count)::value>;
        };
        Step<T, A> call(p);
        call.schedule = schedule_of(p.size, wide ? vector_width<T> : 1);
        if (call.schedule.pieces > 1) {
            call.pass = Pass::Measure;
            const cudaError_t refused = launch_rows<T>(call, wide, stream, kernel);
            if (refused != cudaSuccess)
                return refused;
            call.pass = Pass::Judge;
        }
        return launch_rows<T>(call, wide, stream, kernel);
    });
}

} // namespace pfk::cuda
