// Entropic optimal transport between clouds of points, or by given costs, as every back end receives it.
//
// Potentials f and g make the plan P_ij = a_i b_j exp((f_i + g_j - C_ij) / reg). With
//   f_i / reg = -relax log sum_j b_j exp((g_j - C_ij) / reg)
// the sources have their share, and g_j likewise those of the targets; relax is reg_m / (reg_m + reg) where a
// divergence of the plan's marginals from a and b is paid for, at reg_m, and 1 where they must be met, reg_m infinite.
// An iteration is f from g, and then a step of g from f and from what the last steps have brought; reg begins large
// where costs are far apart beside it, and cools.
#pragma once

#include "elementary.h"
#include "kernel.h"

namespace pfk {

// x0 (rows, sources, size) and x1 (rows, targets, size), or costs (rows, sources, targets) in the place of x0.
struct Sinkhorn {
    DType type;
    int64_t rows, sources, targets, size;
    bool given; // costs
    const void *x0, *x1;
    int64_t x0_stride, x1_stride;
    const void *a, *b; // weights, as wide as the arithmetic, like all below
    int64_t a_stride, b_stride;
    double reg, reg_m, tolerance;
    int64_t most, steps; // steps until an end is made; of this call
    const void *f0, *g0;
    const double* state0; // zeros: begin
    int64_t f0_stride, g0_stride, state0_stride;
    void *f, *g;     // (rows, sources), (rows, targets)
    double* state;   // (rows, kSinkhornState)
    double* scratch; // of the card
};

// For each source a target, drawn with the probabilities b_j exp((g_j - C_ij) / reg) by a uniform number.
struct SinkhornDraw {
    DType type;
    int64_t rows, sources, targets, size;
    bool given;
    const void *x0, *x1;
    int64_t x0_stride, x1_stride;
    const void *b, *g; // as wide as the arithmetic
    int64_t b_stride, g_stride;
    const double* uniform; // (rows, sources), of [0, 1)
    int64_t uniform_stride;
    double reg;
    int64_t* index; // (rows, sources)
};

PFK_KERNEL(sinkhorn, Sinkhorn)
PFK_SCRATCH_OF(sinkhorn, Sinkhorn) // in double
PFK_KERNEL(sinkhorn_draw, SinkhornDraw)

// The state of an iteration. Error: how much mass the targets have too much or too little, as a share of all of it.
enum SinkhornPlace { kSteps, kError, kDone, kReg, kBegan, kBest, kSince, kHold, kUntil, kSinkhornState };

constexpr int64_t kMostSteps = 100000; // of any call: what takes longer never ends
constexpr double kLeastMass = 1e-30, kFurthest = 60, kFar = 30, kFarScale = 1e13; // of sums and scalings
constexpr double kCooling = 8, kWarm = 20; // from a reg to the next, and how many of the first costs are apart

PFK_HD void begin_sinkhorn(double* state, double apart, double reg, double most) {
    for (int i = 0; i < kSinkhornState; ++i)
        state[i] = 0;
    state[kReg] = reg;
    for (int i = 0; i < 40 && most >= 100 && kWarm * kCooling * state[kReg] < apart; ++i)
        state[kReg] *= kCooling;
}

PFK_HD double relax_of(double reg, double reg_m) { return 1 / (1 + reg / reg_m); }

// Takes note of the error: true if a step follows.
PFK_HD bool goes_on(double* state, double error, double reg, double tolerance, double most) {
    state[kError] = error;
    if (!(error == error) || (state[kReg] <= reg && (error <= tolerance || state[kSteps] >= most))) {
        state[kDone] = 1;
        return false;
    }
    state[kSteps] += 1;
    return true;
}

// Whether steps may be mixed. Where eight of them have brought nothing they may not for a while, twice as long each
// time: plain steps get there from anywhere.
PFK_HD bool may_mix(double* state) {
    if (state[kBest] == 0 || state[kError] < 0.999 * state[kBest])
        state[kBest] = state[kError], state[kSince] = state[kSteps];
    else if (state[kSteps] - state[kSince] >= 8 && state[kSteps] >= state[kUntil]) {
        state[kHold] = state[kHold] > 0 ? 2 * state[kHold] : 8;
        state[kUntil] = state[kSteps] + state[kHold];
    }
    if (state[kSteps] >= state[kUntil])
        return true;
    state[kSince] = state[kSteps];
    return false;
}

// After a step: whether reg has become another.
PFK_HD bool cools(double* state, double reg, double most) {
    const bool late = 2 * state[kSteps] >= most;
    if (state[kReg] <= reg || (state[kError] > 0.1 && state[kSteps] - state[kBegan] < 30 && !late))
        return false;
    state[kReg] = late || state[kReg] < kCooling * reg ? reg : state[kReg] / kCooling;
    state[kBegan] = state[kSince] = state[kSteps];
    state[kBest] = state[kHold] = state[kUntil] = 0;
    return true;
}

// The potential over reg that a sum of sum_j b_j exp((g_j + base_j - C_ij) / reg) makes, over its own base.
template <class A> PFK_HD A scaling_of(A sum, A base, A relax) {
    const A next = -relax * log(sum < A(kLeastMass) ? A(kLeastMass) : sum) - (A(1) - relax) * base;
    return next > A(kFurthest) ? A(kFurthest) : next < A(-kFurthest) ? A(-kFurthest) : next;
}

// Anderson mixing (1965; for this iteration, Chizat 2020 and others): of the last kMemory steps it is known how the
// residual, what a plain step would add to g, changed with g. The step is that from the point where the residual, were
// it linear, would be least: plain step - sum_k x_k (change of g + change of the residual)_k, with x the least squares
// of residual - sum_k x_k (change of the residual)_k.
constexpr int kMemory = 5;

// x (n) from the products of the changes with each other, gram (n, n) with rows of kMemory, and with the residual, in
// x; by Cholesky's factors, which take gram's place. Directions that the others hold already are left out.
PFK_HD void solve_mixing(double* gram, double* x, int n) {
    double most = 0;
    for (int i = 0; i < n; ++i)
        most = gram[i * kMemory + i] > most ? gram[i * kMemory + i] : most;
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j <= i; ++j) {
            double sum = gram[i * kMemory + j] + (i == j ? 1e-10 * most : 0);
            for (int k = 0; k < j; ++k)
                sum -= gram[i * kMemory + k] * gram[j * kMemory + k];
            if (i > j)
                gram[i * kMemory + j] = sum * gram[j * kMemory + j];
            else
                gram[i * kMemory + i] = sum > 1e-14 * most ? 1 / detail::root_of(sum) : 0; // the inverse
        }
        for (int k = 0; k < i; ++k)
            x[i] -= gram[i * kMemory + k] * x[k];
        x[i] *= gram[i * kMemory + i];
    }
    for (int i = n - 1; i >= 0; --i) {
        for (int k = i + 1; k < n; ++k)
            x[i] -= gram[k * kMemory + i] * x[k];
        x[i] *= gram[i * kMemory + i];
    }
}

} // namespace pfk
