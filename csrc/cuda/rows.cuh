// Who does what where a row belongs to a few lanes, a warp, a block or several, by its size alone, so that its sum is
// the same in every batch.
#pragma once

#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPiece = 4096; // elements of one block where a row has several

struct Schedule {
    int64_t units; // of a row: neighbouring elements that a thread takes at a time
    int lanes;     // a power of two up to a warp, or a whole block
    int pieces;    // blocks of a row
    int64_t piece; // units of a block

    unsigned blocks(int64_t rows) const {
        const int64_t at_once = kThreads / lanes;
        return static_cast<unsigned>((rows + at_once - 1) / at_once * pieces);
    }
};

int pieces_of(int64_t size) { return size > kPiece ? static_cast<int>((size + kPiece - 1) / kPiece) : 1; }

Schedule schedule_of(int64_t size, int width) {
    const int64_t units = (size + width - 1) / width;
    if (units > 4 * warp_size)
        return {units, kThreads, pieces_of(size), kPiece / width};
    int lanes = 1;
    while (lanes < units && lanes < warp_size)
        lanes *= 2;
    return {units, lanes, 1, units};
}

// One block for a row, however long: where its sums are many and seldom asked for.
Schedule undivided(int64_t size, int width) {
    Schedule schedule = schedule_of(size, width);
    schedule.pieces = 1;
    return schedule;
}

// A thread's units are first, first + lanes, ... below end.
struct Share {
    int64_t row, first, end;
    int lane;

    PFK_DEVICE Share(const Schedule& s) {
        const int thread = static_cast<int>(threadIdx.x);
        const unsigned pieces = static_cast<unsigned>(s.pieces), piece = blockIdx.x % pieces;
        lane = thread & (s.lanes - 1);
        row = static_cast<int64_t>(blockIdx.x / pieces) * (kThreads / s.lanes) + thread / s.lanes;
        first = piece * s.piece + lane;
        end = piece + 1 < pieces ? (piece + 1) * s.piece : s.units;
    }
};

template <class A> PFK_DEVICE A row_sum(A value, int lanes) {
    if (lanes == kThreads)
        return block_reduce<kThreads>(value);
    for (int step = lanes / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(full_warp, value, step);
    return value;
}

// What the blocks of a row left in `sums`, one behind the other, in that order; the whole block must call it.
template <class A> PFK_DEVICE A sum_of_pieces(const A* sums, int64_t row, int pieces) {
    A value = 0;
    for (int piece = static_cast<int>(threadIdx.x); piece < pieces; piece += kThreads)
        value += sums[row * pieces + piece];
    return block_reduce<kThreads>(value);
}

} // namespace
} // namespace pfk::cuda
