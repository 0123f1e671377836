// PFK_LAUNCH(frame, device, op, problem, cost): runs a kernel of this module's back end on a filled problem.
#pragma once

#include "tensor.h"

#ifdef PFK_BACKEND_CPU

#include "../cpu/kernels.h"

#define PFK_LAUNCH(frame, device, op, problem, cost)                                                                   \
    do {                                                                                                               \
        static_cast<void>(frame);                                                                                      \
        auto& call = problem;                                                                                          \
        pfk::cpu::parallel_rows(                                                                                       \
            call.rows, cost,                                                                                           \
            [](void* p, int64_t begin, int64_t end) {                                                                  \
                pfk::cpu::kernels().op(*static_cast<decltype(&call)>(p), begin, end);                                  \
            },                                                                                                         \
            &call);                                                                                                    \
    } while (false)

namespace pfk::bind {
constexpr Device::Kind kDevice = Device::CPU;
}

#else

#include "../cuda/launchers.h"

#define PFK_LAUNCH(frame, device, op, problem, cost)                                                                   \
    pfk::cuda::check(#op, pfk::cuda::op(problem, frame.stream(device)), device.id)

namespace pfk::bind {
constexpr Device::Kind kDevice = Device::CUDA;
}

#endif
