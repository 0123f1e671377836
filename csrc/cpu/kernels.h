// The CPU kernels: one table of functions per instruction set, all built from the same sources.
#pragma once

#include "../math/affine_coupling.h"
#include "../math/cnf_trajectory.h"
#include "../math/conv1x1.h"
#include "../math/hutchinson.h"
#include "../math/lipswish.h"
#include "../math/lu_weight.h"
#include "../math/made.h"
#include "../math/mlp.h"
#include "../math/power_series.h"
#include "../math/rk_step.h"
#include "../math/rq_spline.h"

namespace pfk::cpu {

// Every kernel works on rows [begin, end) and depends on nothing but its rows.
// clang-format off
#define PFK_CPU_KERNELS(entry)                                                  \
    entry(affine_coupling, AffineCoupling)                                      \
    entry(affine_coupling_backward, AffineCouplingBackward)                     \
    entry(cnf_trajectory_pack, CnfTrajectory)                                   \
    entry(cnf_trajectory, CnfTrajectory)                                        \
    entry(cnf_trajectory_backward, CnfTrajectory)                               \
    entry(cnf_trajectory_sum, CnfTrajectory)                                    \
    entry(conv1x1, Conv1x1)                                                     \
    entry(conv1x1_partial, Conv1x1Partial)                                      \
    entry(conv1x1_reduce, Conv1x1Reduce)                                        \
    entry(elementary, Elementary)                                               \
    entry(hutchinson, Hutchinson)                                               \
    entry(hutchinson_backward, Hutchinson)                                      \
    entry(hutchinson_directions, Hutchinson)                                    \
    entry(lipswish, LipSwish)                                                   \
    entry(lipswish_backward, LipSwish)                                          \
    entry(lipswish_total, LipSwish)                                             \
    entry(lu_weight, LuWeight)                                                  \
    entry(lu_weight_backward, LuWeightBackward)                                 \
    entry(made, Made)                                                           \
    entry(made_backward, MadeBackward)                                          \
    entry(made_weights, MadeWeights)                                            \
    entry(mlp_pack, Mlp)                                                        \
    entry(mlp, Mlp)                                                             \
    entry(mlp_backward, Mlp)                                                    \
    entry(mlp_weights, Mlp)                                                     \
    entry(power_series_pack, PowerSeries)                                       \
    entry(power_series, PowerSeries)                                            \
    entry(rk_combine, RkCombine)                                                \
    entry(rk_combine_backward, RkCombineBackward)                               \
    entry(rk_control, RkControl)                                                \
    entry(rk_error, RkError)                                                    \
    entry(rq_spline, RqSpline)                                                  \
    entry(rq_spline_backward, RqSplineBackward)
// clang-format on

// exp, log, tanh, sigmoid, sin or cos of `size` elements: the tests' way to csrc/math/elementary.h.
struct Elementary {
    int function; // 0 exp, 1 log, 2 tanh, 3 sigmoid, 4 sin, 5 cos
    DType type;   // F32 or F64
    const void* x;
    void* y;
};

struct Kernels {
    const char* isa;
#define PFK_MEMBER(name, Problem) void (*name)(const Problem&, int64_t begin, int64_t end);
    PFK_CPU_KERNELS(PFK_MEMBER)
#undef PFK_MEMBER
};

// The best instruction set of this machine, or the one that PYFLOWK_ISA names; throws if that one cannot run.
const Kernels& kernels();

// Calls work(context, begin, end) on pieces of [0, rows), on torch's threads when there is enough to do.
// `cost` is the number of elements of one row.
void parallel_rows(int64_t rows, int64_t cost, void (*work)(void*, int64_t, int64_t), void* context);

} // namespace pfk::cpu
