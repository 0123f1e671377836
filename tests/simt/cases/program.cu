// Interprets a program of accesses and barriers, so that a test can compare the checker with its own happens-before.
#include "csrc/cuda/device.cuh"

namespace {

// Step s of thread i does code[s * threads + i]: nothing, an access to cells[operand], or a barrier.
enum Code { nothing, read, write, add, sync_warp, sync_block };

__global__ void interpret(const int* code, const unsigned* operand, int steps, int* cells, int* sink) {
    const int threads = static_cast<int>(blockDim.x), self = static_cast<int>(threadIdx.x);
    int seen = 0;
    for (int step = 0; step < steps; ++step) {
        const int what = code[step * threads + self];
        const unsigned with = operand[step * threads + self];
        if (what == read)
            seen += cells[with];
        else if (what == write)
            cells[with] = self;
        else if (what == add)
            atomicAdd(cells + with, 1);
        else if (what == sync_warp)
            __syncwarp(with);
        else if (what == sync_block)
            __syncthreads();
    }
    sink[self] = seen;
}

} // namespace

extern "C" cudaError_t run_program(int threads, const int* code, const unsigned* operand, int steps, int* cells,
                                   int* sink) {
    return pfk::launch(interpret, 1, static_cast<unsigned>(threads), 0, nullptr, code, operand, steps, cells, sink);
}
