// Edits of token sequences at all places at once, as every back end receives them.
#pragma once

#include "kernel.h"

namespace pfk {

// instead and insert (rows, places): what stands where a token was, and behind it; negative where nothing does.
struct ApplyEdits {
    int64_t rows, places, limit, pad;
    const int64_t *instead, *insert, *lengths;
    int64_t *values, *lengths_after, *dropped; // values (rows, limit)
};

PFK_KERNEL(apply_edits, ApplyEdits)

} // namespace pfk
