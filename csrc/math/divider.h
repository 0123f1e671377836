// Division by a number that is fixed for a whole launch: a GPU has no integer divider.
#pragma once

#include "host_device.h"

namespace pfk {

// In 64 bits a plain division; in 32 bits, for numbers below 2^31, a multiplication and a shift
// (Granlund, Montgomery 1994: division by invariant integers). A divisor of zero is taken for one.
template <class Index> struct Divider {
    Index divisor;
    PFK_HD Divider by(int64_t divisor) { return {static_cast<Index>(divisor > 0 ? divisor : 1)}; }
    PFK_HD_MEMBER Index divide(Index n) const { return divisor == 1 ? n : n / divisor; }
};

template <> struct Divider<uint32_t> {
    uint32_t divisor, multiplier, shift;
    PFK_HD Divider by(int64_t divisor) {
        const uint64_t d = divisor > 0 ? static_cast<uint64_t>(divisor) : 1;
        uint32_t shift = 31; // plus the logarithm of the divisor, rounded up
        while ((uint64_t(1) << (shift - 31)) < d)
            ++shift;
        return {static_cast<uint32_t>(d), static_cast<uint32_t>(((uint64_t(1) << shift) + d - 1) / d), shift};
    }
    PFK_HD_MEMBER uint32_t divide(uint32_t n) const {
        return static_cast<uint32_t>(static_cast<uint64_t>(n) * multiplier >> shift);
    }
};

} // namespace pfk
