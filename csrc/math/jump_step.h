// One step of tokens in continuous time, as every back end receives it.
#pragma once

#include "kernel.h"
#include "philox.h"

namespace pfk {

// Token i of row b has logits (size,) at logits + b * logits_stride + i * size. `rows` counts tokens, all rows'. A
// number (jump, renoise, own) of token i of row b is at b * row_stride + i * place_stride: one a row has steps of 0.
struct JumpStep {
    DType type;
    int64_t rows, places, size;
    const void* logits;
    int64_t logits_stride;
    const int64_t *x, *keys;
    const void* numbers[3]; // as wide as the arithmetic
    int64_t row_stride[3], place_stride[3];
    uint32_t step;
    int64_t mask; // negative: none
    bool rates;
    double temperature;
    int64_t top_k; // 0: all
    double top_p;
    int64_t* out; // -1 where the logits give no law
};

// A token by its number among those of all rows, and as a place in its row.
struct Place {
    int64_t index, row, place;

    PFK_HD Place of(const JumpStep& p, int64_t index) {
        const int64_t row = index / p.places;
        return {index, row, index - row * p.places};
    }
    PFK_HD_MEMBER void step(const JumpStep& p) {
        ++index, ++place;
        if (place == p.places)
            ++row, place = 0;
    }
    PFK_HD_MEMBER double number(const JumpStep& p, int i) const {
        const int64_t at = row * p.row_stride[i] + place * p.place_stride[i];
        return p.type == DType::F64 ? static_cast<const double*>(p.numbers[i])[at]
                                    : static_cast<const float*>(p.numbers[i])[at];
    }
};

enum class Fate { Stays, Noise, Drawn };

// What the random words of a token say before its logits are read.
struct Gate {
    int64_t token; // x as it is
    double jump, own;
    double gate, uniform; // both in (0, 1)
    uint32_t other;

    PFK_HD Gate of(const JumpStep& p, const Place& at, const Words& words) {
        const uint64_t high = words.at[1], low = words.at[2];
        return {p.x[at.index],
                at.number(p, 0),
                at.number(p, 2),
                uniform_of<double>(words.at[0]),
                (static_cast<double>(static_cast<int64_t>(high << 20 | low >> 12)) + 0.5) * 2.220446049250313e-16,
                words.at[3]};
    }

    // Of a token that may jump with rates it is decided later whether it does: the logits must be read for that.
    PFK_HD_MEMBER Fate fate(const JumpStep& p, const Place& at) const {
        const double noise = at.number(p, 1);
        const bool masked = token == p.mask;
        if ((p.mask < 0 || masked) && gate < (p.rates ? 1 - exp(-jump) : jump))
            return Fate::Drawn;
        if (p.mask >= 0)
            return !masked && gate < noise ? Fate::Noise : Fate::Stays;
        return gate < noise + (p.rates ? 0 : jump) ? Fate::Noise : Fate::Stays;
    }

    PFK_HD_MEMBER int64_t noise(const JumpStep& p) const {
        return p.mask >= 0 ? p.mask
                           : static_cast<int64_t>(static_cast<uint64_t>(other) * static_cast<uint64_t>(p.size) >> 32);
    }

    // Whether it jumps by rates, where a law leaves this share to the other symbols.
    PFK_HD_MEMBER bool jumps(double share) const { return share > 0 && gate < 1 - exp(-jump * share); }
};

PFK_KERNEL(jump_step, JumpStep)

} // namespace pfk
