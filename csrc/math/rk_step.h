// The parts of a Runge-Kutta step as every back end receives them: a state from the slopes so far, the scaled norm of
// the error estimate, and what follows from it. Slopes are tensors of their own; their number is known at compile time
// where it matters.
#pragma once

#include "elementary.h"
#include "kernel.h"

namespace pfk {

constexpr int kMostSlopes = 9;
constexpr int kMostTimes = 14;

// Slopes with their weights. Rows are dense inside; strides count elements from row to row.
struct Slopes {
    int count;
    const void* k[kMostSlopes];
    int64_t stride[kMostSlopes];
    double weight[kMostSlopes];
};

// out = y + h_b sum_j w_j k_j; steps are float, or double for double y.
struct RkCombine {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    const void *y, *h;
    int64_t y_stride, h_stride;
    void* out; // dense
};

// dstate = dy, dh_b = sum over the row of dy sum_j w_j k_j, dk_j = w_j h_b dy
struct RkCombineBackward {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    const void *dy, *h;
    int64_t dy_stride, h_stride;
    void *dstate, *dh; // dense, as are the dk
    void* dk[kMostSlopes];
    void* scratch = nullptr; // CUDA, as of every one that has a sum: ..._scratch(...) accumulators
};

// norm_b = root mean square over the row of h_b sum_j w_j k_j / (atol + rtol max(|y0|, |y1|))
struct RkError {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    double rtol, atol;
    const void *y0, *y1, *h;
    int64_t y0_stride, y1_stride, h_stride;
    void* norm; // dense, float or double
    void* scratch = nullptr;
};

// The columns of a row's clock, as pyflowk/ops/rk_control.py has them.
enum ClockColumn { kTime, kNext, kEnd, kLast, kOlder, kStatus, kAttempts, kAccepted, kStep, kGood, kClock };

// Factors and limits of the controller; exponents are those of this error and of the two before.
struct Controller {
    double rtol, atol, safety, shrink, grow, exponent[3], dt_min, dt_max, max_steps;
};

// A tried step from y0 to y1 with its first and last slope: the clock after it, the state and slope to go on with, and
// the next step's stage times with its length behind them.
struct RkControl {
    DType type;
    int64_t rows, size;
    Slopes slopes;
    Controller control;
    int stages;
    double c[kMostTimes];
    const void *y0, *y1, *k0, *k1;
    const double* clock;
    int64_t y0_stride, y1_stride, k0_stride, k1_stride, clock_stride;
    void *y, *k, *times; // dense
    double* after;       // dense
    void* scratch;
};

// sum_j w_j k_j; `at(j)` is slope j, widened.
template <int N, class A, class At> PFK_HD A weighted(const A* weights, At at) {
    A sum = weights[0] * at(0);
#ifdef __CUDA_ARCH__
#pragma unroll
#elif !defined(__CUDACC__)
#pragma GCC unroll 16
#endif
    for (int j = 1; j < N; ++j)
        sum += weights[j] * at(j);
    return sum;
}

template <class A> PFK_HD A larger_magnitude(A a, A b) {
    const A x = a < A(0) ? -a : a, y = b < A(0) ? -b : b;
    const A larger = x > y ? x : y;
    return x != x ? x : larger; // NaN stays
}

// Whether a running row takes a step of that error; not for NaN.
template <class A> PFK_HD bool accepts(double status, A error) { return status == -1.0 && error <= A(1); }

// One row's clock after a step of that error; `at(column)` reads and `set(column, value)` writes. Pid is false where
// the exponents of the errors before are zero.
template <bool Pid, class At, class Set>
PFK_HD void advance_clock(const Controller& p, double error, const At& at, const Set& set) {
    const double t = at(kTime), step = at(kStep), end = at(kEnd), last = at(kLast), older = at(kOlder);
    double status = at(kStatus);
    const bool running = status == -1.0, good = accepts(status, error), finite = error - error == 0.0;
    const bool lands = step == end - t;
    const double e = error < 1e-12 ? 1e-12 : error;
    double power = p.exponent[0] * log(e);
    if (Pid)
        power += p.exponent[1] * log(last) + p.exponent[2] * log(older);
    double factor = p.safety * exp(power);
    factor = finite ? factor : p.shrink;
    factor = factor < p.shrink ? p.shrink : factor;
    factor = factor > p.grow ? p.grow : factor;
    factor = !good && factor > p.safety ? p.safety : factor;
    const double drift = 10 * 2.220446049250313e-16 * detail::magnitude(t);
    const double least = drift < p.dt_min ? p.dt_min : drift;
    const bool stuck = running && !good && detail::magnitude(step) <= least;
    double size = detail::magnitude(step * factor);
    size = size < least ? least : size;
    size = size > p.dt_max ? p.dt_max : size;
    const double attempts = at(kAttempts) + (running ? 1.0 : 0.0);
    status = good && lands ? 0.0 : status;
    status = status == -1.0 && attempts >= p.max_steps ? 2.0 : status;
    status = stuck ? (finite ? 3.0 : 4.0) : status;
    const double now = good ? (lands ? end : t + step) : t;
    const double next = running ? detail::with_sign(size, step) : at(kNext);
    const double rest = end - now;
    // rather a step one percent longer than a tiny one after it
    const double tried = detail::magnitude(next) * 1.01 >= detail::magnitude(rest) ? rest : next;
    set(kTime, now);
    set(kNext, next);
    set(kEnd, end);
    set(kLast, good ? e : last);
    set(kOlder, good ? last : older);
    set(kStatus, status);
    set(kAttempts, attempts);
    set(kAccepted, at(kAccepted) + (good ? 1.0 : 0.0));
    set(kStep, status == -1.0 ? tried : 0.0);
    set(kGood, good ? 1.0 : 0.0);
}

// A row's stage times and, behind them, its step: `at(column)` reads the clock.
template <class A, class At> PFK_HD void stage_times(const RkControl& p, const At& at, A* times) {
    const double t = at(kTime), step = at(kStep), end = at(kEnd);
    const double after = step == end - t ? end : t + step; // the end itself, not near it
    for (int i = 0; i < p.stages; ++i)
        times[i] = static_cast<A>(p.c[i] == 1.0 ? after : t + p.c[i] * step);
    times[p.stages] = static_cast<A>(step);
}

PFK_KERNEL(rk_combine, RkCombine)
PFK_KERNEL(rk_combine_backward, RkCombineBackward)
PFK_KERNEL(rk_error, RkError)
PFK_KERNEL(rk_control, RkControl)
PFK_SCRATCH_OF(rk_combine_backward, RkCombineBackward)
PFK_SCRATCH_OF(rk_error, RkError)
PFK_SCRATCH_OF(rk_control, RkControl)

} // namespace pfk
