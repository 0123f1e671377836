// Core of the CPU test bench for CUDA kernels: one fiber per CUDA thread, blocks one after another on the calling
// thread.
//
// Two front ends stand on this header: cuda_shim.h (real .cu files compiled by g++) and translated PTX.
// An error inside a launch abandons its fibers, adds a report and makes launch() return a cudaError_t; nothing is
// thrown.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace simt {

// A place in the source: file and line, or a code address that addr2line resolves when a report is written.
// `file` must be a string literal (only the pointer is kept).
struct Where {
    std::uint64_t bits = 0;
    Where() = default;
    Where(const char* file, int line)
        : bits(reinterpret_cast<std::uint64_t>(file) | static_cast<std::uint64_t>(line) << 47) {}
    explicit Where(const void* pc) : bits(reinterpret_cast<std::uint64_t>(pc)) {}
    bool operator==(Where other) const { return bits == other.bits; }
};
std::string describe(Where where); // "affine_coupling.cu:41"

// ---- How to run ---------------------------------------------------------------------------------------------------
enum class Order { in_order, reversed, shuffled };

struct Options {
    Order order = Order::in_order; // of threads within a block and of blocks within a grid
    std::uint64_t seed = 0;        // drives shuffling, preemption and fuzz
    unsigned preempt = 0;          // n > 0: at one checked access in n the thread yields
    bool check = false;            // happens-before checker on access() and atomic()
    bool host_memory = false;      // checker accepts memory that nobody registered (races still found, bounds not)
    bool count = false;            // sector and bank counters
    bool fuzz = false;             // approximate device functions move by up to 2 ulp
    bool log = false;              // launches() grows
    std::size_t shared_limit = 227 * 1024; // opt-in shared memory of the card (99 KiB on sm_86, 64 KiB on sm_75)
    std::uint64_t first_block = 0;         // only linear block numbers first_block <= b < last_block run
    std::uint64_t last_block = ~0ull;
};
Options& options();

// ---- Launch -------------------------------------------------------------------------------------------------------
struct Launch {
    dim3 grid, block;
    std::size_t dynamic_shared = 0;
    const void* kernel = nullptr; // identity for the opt-in to more than 48 KiB of shared memory
    cudaStream_t stream = nullptr;
    const char* name = nullptr; // mangled, where a front end knows it; else `kernel` is the function's address
};
// Runs body() once per thread. Refuses what a driver refuses (cudaErrorInvalidConfiguration, cudaErrorInvalidValue);
// cudaErrorIllegalAddress, cudaErrorMisalignedAddress, cudaErrorLaunchFailure: a report says why.
cudaError_t launch(const Launch& config, const std::function<void()>& body);
cudaError_t allow_dynamic_shared(const void* kernel, std::size_t bytes); // cudaFuncSetAttribute

// What was launched (options().log), and with options().count what its blocks that ran did.
struct Counters {
    std::uint64_t requests[2][2] = {}, units[2][2] = {}; // by shared, write; as in Traffic
    std::uint64_t instructions = 0;                      // of all threads, where the front end counts them
};
struct Launched {
    Launch config;
    Counters counters;
};
const std::vector<Launched>& launches(); // since clear_launches()
void clear_launches();
void count_instructions(std::uint64_t executed); // by the running thread

const std::vector<std::string>& reports(); // everything found since clear_reports()
void clear_reports();

// ---- The machine: two pretended cards, of each of which torch has one stream current
// ----------------------------------------
struct Machine {
    int tensors_on = 0;     // the card that every tensor is on
    int current = 0;        // the card that the calling thread has made current
    bool capturing = false; // whether the current streams are being captured into a graph
    bool record = false;    // whether events are kept
    bool awake[2] = {};     // which cards this process has a context on
};
Machine& machine();
constexpr int cards = 2;
cudaStream_t stream_of(int card);

// A call of the runtime, and the card that was current (for "set": that became so).
struct Event {
    const char* call;
    int card;
    cudaStream_t stream;
};
std::vector<Event>& events();
// Keeps the event, and wakes the card if the call needs a context. A stream that is not the current card's or, during a
// capture, no captured one, is refused, and so is what may not be captured.
cudaError_t happen(const Event& event);

// ---- Inside a kernel: who am I (const: a thread never changes its place, and the instrumenter sees no load)
// ----------
__attribute__((const)) uint3 thread_idx();
__attribute__((const)) uint3 block_idx();
__attribute__((const)) uint3 block_dim();
__attribute__((const)) uint3 grid_dim();
__attribute__((const)) unsigned lane(); // 0..31

[[noreturn]] void fail(cudaError_t code, const std::string& what, Where where); // report and abandon the launch

// ---- Block barrier ------------------------------------------------------------------------------------------------
void barrier(Where where);                           // __syncthreads, bar.sync 0
unsigned barrier_count(bool predicate, Where where); // __syncthreads_count; _or: > 0; _and: == threads of the block

// ---- Warp operations (all lanes of `mask` must arrive with the same operation, mask and place) ----------------------
enum class Shuffle { up, down, bfly, idx };
struct Shuffled {
    std::uint64_t value;
    bool in_range; // PTX predicate: false where the source lane lies outside its segment and the own value came back
};
// Exactly PTX shfl.sync: b = lane or delta, c = clamp | segment mask << 8. A source lane that takes no part gives
// poison.
Shuffled shuffle(Shuffle mode, std::uint32_t mask, std::uint64_t value, std::uint32_t b, std::uint32_t c, Where where);
std::uint32_t ballot(std::uint32_t mask, bool predicate, Where where);
std::uint32_t match_any(std::uint32_t mask, std::uint64_t value, Where where);
enum class Reduce { add, min_u32, max_u32, min_s32, max_s32, bit_and, bit_or, bit_xor };
std::uint32_t reduce(Reduce op, std::uint32_t mask, std::uint32_t value, Where where);
void syncwarp(std::uint32_t mask, Where where); // the only warp operation that orders memory

// ---- Shared memory: one arena per block, filled with 0xFF when the block starts
// --------------------------------------
char* shared_base();    // arena start = PTX shared address 0
void* shared_dynamic(); // the dynamic part
std::size_t dynamic_shared_bytes();
// The array known by `tag` (any unique address), placed on first use, followed by a 64-byte gap.
void* shared_static(const void* tag, const char* name, std::size_t bytes, std::size_t align, Where where = {});

// ---- Memory accesses ----------------------------------------------------------------------------------------------
enum class Access : std::uint8_t { read, write, atomic };
// Call before every load and store. `value` (optional, for writes): a store of what a lane of the same warp has just
// stored there is then benign.
void access(Access kind, const void* address, std::size_t bytes, Where where, const void* value = nullptr);

enum class Atomic { add, min, max, exchange, compare_exchange, bit_and, bit_or, bit_xor };
enum class Scalar { u32, s32, u64, s64, f32, f64 };
// Raw bits in and out (old value), access() included.
std::uint64_t atomic(Atomic op, Scalar type, void* address, std::uint64_t operand, std::uint64_t compare, Where where);

float fuzz(float value); // the identity unless options().fuzz
double fuzz(double value);

// ---- Test memory --------------------------------------------------------------------------------------------------
// 256-byte aligned plus `shift` bytes, 256-byte red zones; an uninitialised buffer must be written before it is read.
void* allocate(const char* name, std::size_t bytes, std::size_t shift, bool initialised);
void release(void* address); // reports a red zone that was written
void adopt(const char* name, const void* address, std::size_t bytes, bool initialised); // foreign memory, e.g. a tensor
void forget(const void* address);
void mark_initialised(const void* address, std::size_t bytes); // the host (or a memset) wrote it

// ---- Traffic counters (options().count)
// ------------------------------------------------------------------------------
struct Traffic {
    Where where;
    std::string array;
    bool shared; // units are bank wavefronts, else 32-byte sectors
    bool write;
    std::uint64_t requests; // warp-wide executions
    std::uint64_t units, minimum;
};
std::vector<Traffic> traffic(); // since clear_traffic(), one row per place
void clear_traffic();

} // namespace simt
