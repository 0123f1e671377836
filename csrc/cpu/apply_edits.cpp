// apply_edits on the CPU. Compiled once per instruction set.

#include "../math/apply_edits.h"

namespace pfk::cpu {
namespace PFK_ISA {

void apply_edits(const ApplyEdits& p, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t *const instead = p.instead + row * p.places, *const insert = p.insert + row * p.places;
        const int64_t length = p.lengths[row] < 0 ? 0 : p.lengths[row] > p.places ? p.places : p.lengths[row];
        int64_t* const values = p.values + row * p.limit;
        int64_t room = p.limit, made = 0, dropped = 0; // tokens that stay have their place, insertions what is left
        for (int64_t i = 0; i < length; ++i)
            room -= instead[i] >= 0;
        for (int64_t i = 0; i < length; ++i) {
            if (instead[i] >= 0)
                values[made++] = instead[i];
            if (insert[i] >= 0 && room > 0)
                values[made++] = insert[i], --room;
            else
                dropped += insert[i] >= 0;
        }
        p.lengths_after[row] = made, p.dropped[row] = dropped;
        for (; made < p.limit; ++made)
            values[made] = p.pad;
    }
}

} // namespace PFK_ISA
} // namespace pfk::cpu
