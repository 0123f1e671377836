// What the parts of the core share about the running block. Not for front ends.
#pragma once

#include "core.h"
#include "fiber.h"

#include <array>

namespace simt {

enum class State { ready, at_barrier, in_warp_operation, done };
enum class WarpOperation { shuffle, ballot, match_any, reduce, sync };

struct Thread {
    Context fiber;
    State state = State::done;
    unsigned number = 0; // linear, within the block
    uint3 index = {};
    Where where; // of the barrier or warp operation it waits in
    // The warp operation it waits in, and its result.
    WarpOperation operation = WarpOperation::sync;
    int detail = 0; // Shuffle or Reduce
    std::uint32_t mask = 0, b = 0, c = 0;
    std::uint64_t value = 0;
    bool flag = false;
    // Vector clock over the lanes of its warp: its own entry counts its __syncwarp calls.
    std::array<std::uint32_t, 32> clock = {};
};

struct Block { // the launch and the block that is running
    dim3 grid, block;
    uint3 index = {};
    unsigned threads = 0;
    std::size_t dynamic_shared = 0;
    unsigned predicates = 0, last_predicates = 0; // of barrier_count
    std::uint32_t serial = 1;                     // number of this block among all blocks ever run; 1 = the host
    std::uint32_t first_serial = 2;               // that of the launch's first block
    std::uint32_t epoch = 0;                      // barriers passed
    bool failed = false;
    cudaError_t error = cudaSuccess;
};

extern Thread* current; // null outside a launch
extern Thread* threads; // max_threads of them
extern Block block;

void yield();                                           // back to the scheduler, state set by the caller
void report(cudaError_t code, const std::string& text); // one line; repeated ones are dropped
std::string describe_thread(unsigned number);           // "thread (3,0,0) of block (1,0,0)"
std::uint64_t random_number();

// Memory.
struct Region {
    std::uintptr_t begin = 0, end = 0;
    std::string name;
    bool initialised = true;
    bool shared = false;
};
const Region* find_region(const void* address, std::size_t bytes);
std::string describe_address(const void* address); // "x+12 B", or its distance from the nearest array
bool in_shared_arena(const void* address);
bool is_exempt(const void* address); // host stack or a loaded module
void start_shared_arena();           // once a launch
void clear_shared_arena();           // once a block
void check_red_zones();

// Checker.
void forget_cells(const void* address, std::size_t bytes);
void mark_cells(const void* address, std::size_t bytes);
void count_access(const Region& region, bool write, const void* address, std::size_t bytes, Where where);
void flush_counters(Counters& launch); // at the end of a block

} // namespace simt
