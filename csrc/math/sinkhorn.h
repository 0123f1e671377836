// Entropic optimal transport between clouds of points, or by given costs, as every back end receives it; and how long
// the steps of its iteration are.
//
// Potentials f and g make the plan P_ij = a_i b_j exp((f_i + g_j - C_ij) / reg). A step of f in logarithms goes towards
//   f_i / reg = -relax log sum_j b_j exp((g_j - C_ij) / reg),
// one of g likewise; relax is 1 where the plan's marginals must be a and b, and reg_m / (reg_m + reg) where only a
// divergence of theirs from a and b is paid for, at reg_m.
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
    double reg, relax, tolerance;
    int64_t most, steps; // steps until an end is made; of this call
    const void *f0, *g0;
    const double* state0; // zeros: begin
    int64_t f0_stride, g0_stride, state0_stride;
    void *f, *g;   // (rows, sources), (rows, targets)
    double* state; // (rows, kSinkhornState)
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
PFK_KERNEL(sinkhorn_draw, SinkhornDraw)

// The state of an iteration. Error: how much of the mass the plan has in the wrong place, as a share of all of it.
// Step: the length of the step that is being made; last: of the one before, 0 before the first.
enum SinkhornPlace { kSteps, kError, kDone, kOmega, kStep, kLast, kSince, kMark, kSinkhornState };

constexpr int64_t kMostSteps = 100000;                          // of any call: what takes longer never ends
constexpr double kLeastMass = 1e-30, kFurthest = 60, kFar = 30; // of sums; of logarithms of scalings

// Successive over-relaxation: steps are omega times as long, which turns a rate rho of plain steps into omega - 1 at
// the best omega, 2 / (1 + sqrt(1 - rho)) (Young 1954; for this iteration Thibault et al. 2017, arXiv:1711.01851).
// The rate q that is seen at any omega tells rho = (q + omega - 1)^2 / (q omega^2); it is looked at over a few steps,
// once they have settled. Errors that do not fall bring plain steps back. The last step is plain: after it the
// targets have their share exactly, and the error of the sources is all there is.
//
// It is told the error before a step whose length is settled; unless that ends it, the step is then made.
PFK_HD void pace_sinkhorn(double* state, double error, double tolerance, double most) {
    const bool within = !(error > tolerance); // so that NaN ends it
    state[kError] = error;
    if (!(error == error) || (within && state[kLast] == 1) || state[kSteps] >= most) {
        state[kDone] = 1;
        return;
    }
    const bool relaxed = state[kOmega] > 1;
    const double settle = relaxed ? 6 : 2, window = relaxed ? 6 : 2, age = state[kSteps] - state[kSince];
    if (age == settle)
        state[kMark] = error;
    if (age == settle + window) {
        const double omega = state[kOmega], seen = exp(log(error / state[kMark]) / window);
        const double least = omega - 1 > 1e-3 ? omega - 1 : 1e-3, q = seen > least ? seen : least;
        const double rho = (q + omega - 1) * (q + omega - 1) / (q * omega * omega);
        const double best = 2 / (1 + detail::root_of(rho < 1 ? 1 - rho : 0));
        state[kOmega] = seen < 1 ? (best < 1.99 ? best : 1.99) : 1;
        state[kSince] = state[kSteps];
    }
    state[kLast] = state[kStep];
    state[kSteps] += 1;
    state[kStep] = within || state[kSteps] + 1 >= most ? 1 : state[kOmega];
}

PFK_HD void begin_sinkhorn(double* state) {
    for (int i = 0; i < kSinkhornState; ++i)
        state[i] = 0;
    state[kOmega] = state[kStep] = 1;
}

// The logarithm of a scaling after a step of length omega, from the sum that belongs to it; `base` is the part of the
// potential over reg that is in the sum already.
template <class A> PFK_HD A step_sinkhorn(A scaling, A base, A sum, A omega, A relax) {
    const A target = -relax * log(sum > A(kLeastMass) || !(sum == sum) ? sum : A(kLeastMass)) - (A(1) - relax) * base;
    const A next = scaling + omega * (target - scaling);
    return next > A(kFurthest) ? A(kFurthest) : next < A(-kFurthest) ? A(-kFurthest) : next;
}

} // namespace pfk
