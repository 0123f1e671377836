// What kernels under a mask share: the walk over transformed elements, tiles of rows, the identity part, and the
// ways from run-time types to templates. Internal linkage, as in tile.h.
#pragma once

#include "../math/mask.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t whole_lanes(int64_t n) { return n / kLanes * kLanes; }
constexpr int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Walks the transformed elements of a row in order and calls piece(x offset, param offset, position, length). It
// remembers where it stands, so that a long row can be walked in tiles.
class Walk {
  public:
    Walk(const Event& event, const Runs& runs) : event_(&event), runs_(&runs) {
        if (runs.count > 0)
            current_ = run_at(event, runs, 0);
    }

    template <class Piece> void go(int64_t n, Piece piece) {
        for (int64_t position = 0; position < n;) {
            const int64_t left = current_.length - done_, length = left < n - position ? left : n - position;
            piece(current_.x + done_ * runs_->x_step, current_.param + done_ * runs_->param_step, position, length);
            position += length;
            done_ += length;
            if (done_ == current_.length) {
                done_ = 0;
                if (++run_ < runs_->count)
                    current_ = run_at(*event_, *runs_, run_);
            }
        }
    }

  private:
    const Event* event_;
    const Runs* runs_;
    Run current_{};
    int64_t run_ = 0, done_ = 0;
};

// Tiles of at most Size elements are several short rows, or a stretch of one long row.
template <int64_t Size = kTile, class Tile> void for_tiles(int64_t begin, int64_t end, int64_t moved, Tile tile) {
    if (moved <= Size) {
        const int64_t rows = moved ? Size / moved : Size;
        for (int64_t row = begin; row < end; row += rows)
            tile(row, row + rows < end ? row + rows : end, moved, true, true);
        return;
    }
    for (int64_t row = begin; row < end; ++row)
        for (int64_t k = 0; k < moved; k += Size)
            tile(row, row + 1, moved - k < Size ? moved - k : Size, k == 0, k + Size >= moved);
}

// The identity part of a row, or all of it where the transformed elements lie between the others.
struct Identity {
    int64_t first, length;

    Identity(const Event& e, int64_t size) : first(0), length(size) {
        if (e.mask == Mask::All)
            length = 0;
        if (e.mask == Mask::Half || e.mask == Mask::HalfSwapped) {
            const int64_t moved = moved_elements(e);
            first = e.mask == Mask::HalfSwapped ? moved : 0;
            length = size - moved;
        }
    }

    template <class T> void copy(const T* x, T* y) const {
        if (x != y)
            copy_row(x + first, y + first, length);
    }
};

// A compile-time constant as a value.
template <bool Value> struct Flag {
    static constexpr bool value = Value;
};

// Calls body(T{}, P{}) with the types of x and params in memory.
template <class Body> void with_types(DType state, DType param, Body body) {
    switch (state) {
    case DType::F64:
        return body(double{}, double{});
    case DType::BF16:
        return body(bf16{}, bf16{});
    case DType::F16:
        return body(fp16{}, fp16{});
    case DType::F32:
        break;
    }
    if (param == DType::BF16)
        return body(float{}, bf16{});
    if (param == DType::F16)
        return body(float{}, fp16{});
    return body(float{}, float{});
}

template <class T> struct Accumulator {
    using Type = float;
};
template <> struct Accumulator<double> {
    using Type = double;
};

} // namespace
} // namespace pfk::cpu
