// PFK_HD marks a function that both the host compiler and nvcc may call.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define PFK_HD __host__ __device__ __forceinline__
#else
#define PFK_HD static inline __attribute__((always_inline))
#endif

namespace pfk {

// Element types in memory. Arithmetic is float for all of them but F64.
enum class DType : int { F32, F64, BF16, F16 };

} // namespace pfk
