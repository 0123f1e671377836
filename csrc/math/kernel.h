// PFK_KERNEL(name, Problem), inside namespace pfk beside its problem, declares a kernel in the words of whoever reads
// it:
//   csrc/cpu (PFK_ISA)           pfk::cpu::v3::name(problem, begin, end), one for each instruction set
//   csrc/bind of the CPU module  pfk::cpu::name, what was compiled for each of them
//   csrc/cuda and its binding    pfk::cuda::name(problem, stream)
// PFK_SCRATCH_OF(name, Problem): for CUDA, how many accumulators of scratch memory that kernel needs.
#pragma once

#include <cstdint>

#if defined(PFK_ISA)

#define PFK_KERNEL(name, Problem)                                                                                      \
    namespace cpu {                                                                                                    \
    namespace PFK_ISA {                                                                                                \
    void name(const Problem&, int64_t begin, int64_t end);                                                             \
    }                                                                                                                  \
    }
#define PFK_SCRATCH_OF(name, Problem)

#elif defined(PFK_BACKEND_CPU)

namespace pfk::cpu {
// A CPU kernel works on rows [begin, end) and depends on nothing but its rows.
template <class Problem> using Kernel = void (*)(const Problem&, int64_t begin, int64_t end);
} // namespace pfk::cpu

// What was compiled for an instruction set, or null: CMakeLists.txt defines PFK_LEVEL_* of those that were.
#ifdef PFK_LEVEL_v4
#define PFK_AT_v4(name) v4::name
#else
#define PFK_AT_v4(name) nullptr
#endif
#ifdef PFK_LEVEL_v3
#define PFK_AT_v3(name) v3::name
#else
#define PFK_AT_v3(name) nullptr
#endif
#ifdef PFK_LEVEL_v2
#define PFK_AT_v2(name) v2::name
#else
#define PFK_AT_v2(name) nullptr
#endif
#ifdef PFK_LEVEL_baseline
#define PFK_AT_baseline(name) baseline::name
#else
#define PFK_AT_baseline(name) nullptr
#endif

#define PFK_KERNEL_AT(level, name, Problem)                                                                            \
    namespace level {                                                                                                  \
    void name(const Problem&, int64_t begin, int64_t end);                                                             \
    }
#define PFK_KERNEL(name, Problem)                                                                                      \
    namespace cpu {                                                                                                    \
    PFK_KERNEL_AT(v4, name, Problem)                                                                                   \
    PFK_KERNEL_AT(v3, name, Problem)                                                                                   \
    PFK_KERNEL_AT(v2, name, Problem)                                                                                   \
    PFK_KERNEL_AT(baseline, name, Problem)                                                                             \
    inline constexpr Kernel<Problem> name[] = {PFK_AT_v4(name), PFK_AT_v3(name), PFK_AT_v2(name),                      \
                                               PFK_AT_baseline(name)}; /* in the order of cpu::level() */              \
    }
#define PFK_SCRATCH_OF(name, Problem)

#else

namespace pfk::cuda {
using Error = int; // a cudaError_t
}

#define PFK_KERNEL(name, Problem)                                                                                      \
    namespace cuda {                                                                                                   \
    Error name(const Problem&, void* stream);                                                                          \
    }
#define PFK_SCRATCH_OF(name, Problem)                                                                                  \
    namespace cuda {                                                                                                   \
    int64_t name##_scratch(const Problem&);                                                                            \
    }

#endif
