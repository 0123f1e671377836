// PFK_HD marks a free function or a static member that both the host compiler and nvcc may call, PFK_HD_MEMBER a
// member.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define PFK_HD_MEMBER __host__ __device__ __forceinline__
#else
#define PFK_HD_MEMBER inline __attribute__((always_inline))
#endif
#define PFK_HD static PFK_HD_MEMBER

namespace pfk {

// Element types in memory. Arithmetic is float for all of them but F64.
enum class DType : int { F32, F64, BF16, F16 };

} // namespace pfk
