// Planted races. Every launcher takes `fault`: 0 runs the corrected twin. Results are right in thread order even with
// the fault: only the happens-before checker can see it.
#include "csrc/cuda/device.cuh"

namespace {

constexpr int threads = 128;

PFK_DEVICE int self() { return static_cast<int>(threadIdx.x); }

// Thread i reads what another warp wrote.
template <bool Fault> __global__ void without_barrier(float* y, int) {
    PFK_SHARED(float, tile, [threads]);
    tile[self()] = static_cast<float>(self());
    if (!Fault)
        __syncthreads();
    y[blockIdx.x * threads + self()] = tile[self() / 2];
}

// The tile is overwritten while others may still read it.
template <bool Fault> __global__ void without_second_barrier(float* y, int) {
    PFK_SHARED(float, tile, [threads]);
    float sum = 0.f;
    for (int step = 0; step < 2; ++step) {
        tile[self()] = static_cast<float>(self() + step);
        __syncthreads();
        sum += tile[threads - 1 - self()];
        if (!Fault)
            __syncthreads();
    }
    y[blockIdx.x * threads + self()] = sum;
}

// Neighbours within a warp: shuffles would do, memory needs __syncwarp.
template <bool Fault> __global__ void without_syncwarp(float* y, int) {
    PFK_SHARED(float, tile, [threads]);
    tile[self()] = static_cast<float>(self());
    if (!Fault)
        __syncwarp();
    y[blockIdx.x * threads + self()] = tile[self() / 32 * 32 + (self() % 32) / 2];
}

// A shuffle is no fence.
template <bool Fault> __global__ void shuffle_as_fence(float* y, int) {
    PFK_SHARED(float, tile, [threads]);
    tile[self()] = static_cast<float>(self());
    const float value = __shfl_xor_sync(pfk::full_warp, 1.f, 1);
    if (!Fault)
        __syncwarp();
    y[blockIdx.x * threads + self()] = value + tile[self() ^ 1];
}

// __syncwarp says nothing about other warps.
template <bool Fault> __global__ void syncwarp_across_warps(float* y, int) {
    PFK_SHARED(float, tile, [threads]);
    tile[self()] = static_cast<float>(self());
    if (Fault)
        __syncwarp();
    else
        __syncthreads();
    y[blockIdx.x * threads + self()] = tile[self() ^ 32];
}

template <bool Fault> __global__ void blocks_share_cell(float* y, int) {
    if (self() == 0)
        y[Fault ? 0 : blockIdx.x] = 1.f;
}

template <bool Fault> __global__ void plain_add(float* y, int) {
    if (Fault)
        y[0] += 1.f;
    else
        atomicAdd(y, 1.f);
}

// An atomic and a plain access of one cell race too.
template <bool Fault> __global__ void atomic_beside_plain(float* y, int) {
    if (self() < 64)
        atomicAdd(y, 1.f);
    if (!Fault)
        __syncthreads();
    if (self() == 64)
        y[1] = y[0];
}

// Readers in several lanes, then a writer of the same warp.
template <bool Fault> __global__ void write_after_read(float* y, int) {
    PFK_SHARED(float, head);
    if (self() == 0)
        head = 1.f;
    __syncthreads();
    if (self() < 32) {
        y[self()] = head;
        if (!Fault)
            __syncwarp();
        if (self() == 31)
            head = 2.f;
    }
}

// A half warp's __syncwarp orders that half alone.
template <bool Fault> __global__ void half_warp_sync(float* y, int) {
    PFK_SHARED(float, tile, [threads]);
    tile[self()] = static_cast<float>(self());
    __syncwarp(self() % 32 < 16 ? 0x0000ffffu : 0xffff0000u);
    y[self()] = tile[self() ^ (Fault ? 16 : 8)];
}

} // namespace

#define LAUNCHER(name, blocks)                                                                                         \
    extern "C" cudaError_t launch_##name(int fault, float* y, int n) {                                                 \
        return fault ? pfk::launch(name<true>, blocks, threads, 0, nullptr, y, n)                                      \
                     : pfk::launch(name<false>, blocks, threads, 0, nullptr, y, n);                                    \
    }
LAUNCHER(without_barrier, 2)
LAUNCHER(without_second_barrier, 2)
LAUNCHER(without_syncwarp, 2)
LAUNCHER(shuffle_as_fence, 2)
LAUNCHER(syncwarp_across_warps, 2)
LAUNCHER(blocks_share_cell, 2)
LAUNCHER(plain_add, 1)
LAUNCHER(atomic_beside_plain, 1)
LAUNCHER(write_after_read, 1)
LAUNCHER(half_warp_sync, 1)
