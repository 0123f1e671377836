// What pyflowk/ops/symbols.py asks of tokens, for the kernels on the CPU, where values may be looked at.
#pragma once

#include "tensor.h"

namespace pfk::bind {

// Throws where x holds what is neither a symbol 0 to size - 1 nor `mask`; of what may be padded, negative numbers are
// left out.
inline void require_symbols(const char* op, const char* what, const Indices& x, int64_t size, int64_t mask,
                            bool padded) {
    int64_t count = 1;
    for (int64_t d = 0; d < x.ndim; ++d)
        count *= x.shape[d];
    const auto fits = [&](int64_t symbol) {
        return (symbol < size && (symbol >= 0 || padded)) || (mask >= 0 && symbol == mask);
    };
    bool all = true;
    for (int64_t i = 0; i < count; ++i)
        all &= fits(x.data[i]);
    for (int64_t i = 0; i < count && !all; ++i)
        if (!fits(x.data[i]))
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

} // namespace pfk::bind
