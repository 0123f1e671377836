// PFK_LAUNCH(frame, device, op, problem, cost): runs a kernel of this module's back end on a filled problem.
// PFK_SCRATCH(op, problem): how many accumulators of scratch memory that kernel needs.
#pragma once

#include "dlpack.h"
#include "tensor.h"

#ifdef PFK_BACKEND_CPU

#include "../cpu/dispatch.h"

#define PFK_LAUNCH(frame, device, op, problem, cost)                                                                   \
    do {                                                                                                               \
        static_cast<void>(frame);                                                                                      \
        auto& call = problem;                                                                                          \
        pfk::cpu::parallel_rows(                                                                                       \
            call.rows, cost,                                                                                           \
            [](void* p, int64_t begin, int64_t end) {                                                                  \
                pfk::cpu::op[pfk::cpu::level()](*static_cast<decltype(&call)>(p), begin, end);                         \
            },                                                                                                         \
            &call);                                                                                                    \
    } while (false)
#define PFK_SCRATCH(op, problem) (static_cast<void>(problem), int64_t(0))

namespace pfk::bind {
constexpr Device::Kind kDevice = Device::CPU;
}

#else

#include "../cuda/runtime.h"

#define PFK_LAUNCH(frame, device, op, problem, cost)                                                                   \
    do {                                                                                                               \
        static_cast<void>(cost);                                                                                       \
        pfk::cuda::check(#op, pfk::cuda::op(problem, frame.stream(device)), device.id);                                \
    } while (false)
#define PFK_SCRATCH(op, problem) pfk::cuda::op##_scratch(problem)

#ifdef PFK_BACKEND_SIMT
#include "observe.h" // tests/simt/shim: the CUDA kernels on the CPU, whose checker wants to know every tensor
#else
namespace pfk::bind {
constexpr Device::Kind kDevice = Device::CUDA;
}
#endif

#endif

#ifndef PFK_BACKEND_SIMT
namespace pfk::bind {
inline void observe(const Tensor&, bool) {}
inline void observe(const Indices&) {}
inline void forget_observed() {}
inline const dlpack::ExchangeAPI* seen_by_binding(const dlpack::ExchangeAPI* of_torch) { return of_torch; }
} // namespace pfk::bind
#endif
