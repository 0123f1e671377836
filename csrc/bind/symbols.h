// What pyflowk/ops/symbols.py asks of tokens, for the kernels on the CPU, where values may be looked at.
#pragma once

#include "tensor.h"

#include <cmath>

namespace pfk::bind {

// Throws where x holds what is neither a symbol 0 to size - 1 nor `mask`; negative numbers are left out where those of
// `data`, if there are any, are negative, too: padding.
inline void require_symbols(const char* op, const char* what, const Indices& x, int64_t size, int64_t mask,
                            const Indices* data = nullptr) {
    int64_t count = 1;
    for (int64_t d = 0; d < x.ndim; ++d)
        count *= x.shape[d];
    const auto fits = [&](int64_t i) {
        const int64_t symbol = x.data[i];
        return (symbol < size && (symbol >= 0 || (data && data->data[i] < 0))) || (mask >= 0 && symbol == mask);
    };
    bool all = true;
    for (int64_t i = 0; i < count; ++i)
        all &= fits(i);
    for (int64_t i = 0; i < count && !all; ++i)
        if (!fits(i))
            refuse<std::invalid_argument>(op, ": ", what, " must hold symbols 0 to ", size - 1,
                                          mask < 0 ? "" : ", or the mask " + std::to_string(mask), "; got ", x.data[i]);
}

// Throws where there is the mask among the data.
inline void require_no_mask(const char* op, const char* what, const Indices& x, int64_t mask) {
    bool found = false;
    for (int64_t i = 0; i < x.shape[0] * x.shape[1]; ++i)
        found |= x.data[i] == mask;
    if (mask >= 0 && found)
        refuse<std::invalid_argument>(op, ": ", what, " must not hold the mask; got ", mask);
}

// How far above 1 rounding may have brought a chance: kRounding of symbols.py.
constexpr double kRounding = 1e-5;

// Throws unless t (B, N) or (B, 1), float32 or float64, holds numbers of [least, most].
inline void require_range(const char* op, const char* what, const Tensor& t, double least, double most) {
    for (int64_t row = 0; row < t.shape[0]; ++row)
        for (int64_t i = 0; i < t.shape[1]; ++i) {
            const int64_t at = row * t.row_stride + i;
            const double value = t.dtype == DType::F64 ? static_cast<const double*>(t.data)[at]
                                                       : static_cast<double>(static_cast<const float*>(t.data)[at]);
            if (value >= least && value <= most + kRounding)
                continue;
            std::ostringstream expected;
            if (std::isinf(least))
                expected << "a number";
            else
                std::isinf(most) ? expected << "at least " << least : expected << least << " to " << most;
            refuse<std::invalid_argument>(op, ": ", what, " must be ", expected.str(), "; got ", value);
        }
}

} // namespace pfk::bind
