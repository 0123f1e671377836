// The CUDA kernels as plain functions: a filled problem and a stream in, an error code out. Needs no header of CUDA.
#pragma once

#include <string>

#include "../math/affine_coupling.h"
#include "../math/cnf_trajectory.h"
#include "../math/conv1x1.h"
#include "../math/hutchinson.h"
#include "../math/lu_weight.h"
#include "../math/made.h"
#include "../math/power_series.h"
#include "../math/rk_step.h"
#include "../math/rq_spline.h"

namespace pfk::cuda {

using Error = int; // a cudaError_t

// How many accumulators (float, or double for double x) of scratch memory the op needs: none, unless rows are so long
// that several blocks share one.
int64_t affine_coupling_scratch(const AffineCoupling& problem);
Error affine_coupling(const AffineCoupling& problem, void* stream);
Error affine_coupling_backward(const AffineCouplingBackward& problem, void* stream);
int64_t rq_spline_scratch(const RqSpline& problem);
Error rq_spline(const RqSpline& problem, void* stream);
Error rq_spline_backward(const RqSplineBackward& problem, void* stream);

// The panels of the blocks that run at once; backward also a gradient of all parameters a block.
int64_t cnf_trajectory_scratch(const CnfTrajectory& problem);
int64_t cnf_trajectory_backward_scratch(const CnfTrajectory& problem);
Error cnf_trajectory(const CnfTrajectory& problem, void* stream);
Error cnf_trajectory_backward(const CnfTrajectory& problem, void* stream);

Error conv1x1(const Conv1x1& problem, void* stream);
Error conv1x1_partial(const Conv1x1Partial& problem, void* stream);
Error conv1x1_reduce(const Conv1x1Reduce& problem, void* stream);

Error hutchinson(const Hutchinson& problem, void* stream);
Error hutchinson_backward(const Hutchinson& problem, void* stream);
Error hutchinson_directions(const Hutchinson& problem, void* stream);

Error lu_weight(const LuWeight& problem, void* stream);
Error lu_weight_backward(const LuWeightBackward& problem, void* stream);

// The activations of the blocks that run at once.
int64_t made_scratch(const Made& problem);
int64_t made_backward_scratch(const MadeBackward& problem);
Error made(const Made& problem, void* stream);
Error made_backward(const MadeBackward& problem, void* stream);
Error made_weights(const MadeWeights& problem, void* stream);

// The panels of the blocks that run at once.
int64_t power_series_scratch(const PowerSeries& problem);
Error power_series(const PowerSeries& problem, void* stream);

Error rk_combine(const RkCombine& problem, void* stream);
Error rk_combine_backward(const RkCombineBackward& problem, void* stream);
Error rk_error(const RkError& problem, void* stream);
Error rk_control(const RkControl& problem, void* stream);

// Makes a device current for the length of a launch.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device);
    ~DeviceGuard();
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = -1; // nothing to restore
};

// Throws std::runtime_error naming op, device and cause unless `error` is success.
void check(const char* op, Error error, int device);

// Why no CUDA device can be used here; empty if one can.
std::string device_error();

} // namespace pfk::cuda
