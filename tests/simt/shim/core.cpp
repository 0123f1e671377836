// Scheduler: launches, blocks, barriers.
#include "core.h"
#include "state.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>

namespace simt {

Block block;
Thread* current = nullptr;
Thread* threads = new Thread[max_threads];

namespace {

Context scheduler;
const std::function<void()>* body = nullptr;
std::uint64_t random_state = 0;
std::vector<std::string> found;
std::vector<Launched> launched;
Counters counters; // of the running launch
constexpr std::size_t max_reports = 50;
constexpr std::size_t default_shared_limit = 48 * 1024;

std::map<const void*, std::size_t>& shared_opt_ins() {
    static std::map<const void*, std::size_t> bytes;
    return bytes;
}

void thread_main() {
    arrived(current->fiber);
    (*body)();
    current->state = State::done;
    yield();
}

void start_threads() {
    for (unsigned i = 0; i < block.threads; ++i) {
        Thread& t = threads[i];
        t.state = State::ready;
        t.number = i;
        t.index = {i % block.block.x, i / block.block.x % block.block.y, i / (block.block.x * block.block.y)};
        t.clock.fill(0);
        t.clock[i % 32] = 1;
        prepare(t.fiber, static_cast<int>(i), thread_main);
    }
}

void order_threads(std::vector<unsigned>& order) {
    if (options().order != Order::shuffled)
        return;
    for (std::size_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[random_number() % i]);
}

unsigned count_state(State state) {
    return static_cast<unsigned>(
        std::count_if(threads, threads + block.threads, [&](const Thread& t) { return t.state == state; }));
}

const Thread& first_in(State state) {
    return *std::find_if(threads, threads + block.threads, [&](const Thread& t) { return t.state == state; });
}

void report_warp_deadlock() {
    const Thread& t = first_in(State::in_warp_operation);
    std::string text = "WARP DEADLOCK at " + describe(t.where) + ": " + describe_thread(t.number) + " waits for";
    for (unsigned lane = 0; lane < 32; ++lane) {
        const Thread& other = threads[t.number / 32 * 32 + lane];
        if (!(t.mask >> lane & 1u) || other.state == State::in_warp_operation)
            continue;
        text += " lane " + std::to_string(lane) +
                (other.state == State::done ? ", which has exited" : ", which is at " + describe(other.where));
        break;
    }
    report(cudaErrorLaunchFailure, text);
}

// Every thread waits or has ended: releases the barrier, or finds out why that cannot be. False ends the block.
bool release_barrier() {
    if (count_state(State::in_warp_operation)) {
        report_warp_deadlock();
        return false;
    }
    unsigned waiting = count_state(State::at_barrier);
    if (!waiting)
        return false; // all done
    const Thread& first = first_in(State::at_barrier);
    if (waiting < block.threads) {
        report(cudaErrorLaunchFailure, "BARRIER DIVERGENCE at " + describe(first.where) + ": " +
                                           std::to_string(block.threads - waiting) + " of " +
                                           std::to_string(block.threads) + " threads have exited, first " +
                                           describe_thread(first_in(State::done).number));
        return false;
    }
    for (unsigned i = 0; i < block.threads; ++i) {
        if (threads[i].where == first.where)
            continue;
        report(cudaErrorLaunchFailure, "BARRIER DIVERGENCE: " + describe_thread(first.number) + " waits at " +
                                           describe(first.where) + ", " + describe_thread(i) + " at " +
                                           describe(threads[i].where));
        return false;
    }
    for (unsigned i = 0; i < block.threads; ++i)
        threads[i].state = State::ready;
    block.last_predicates = block.predicates;
    block.predicates = 0;
    ++block.epoch;
    return true;
}

void run_threads() {
    std::vector<unsigned> order(block.threads);
    std::iota(order.begin(), order.end(), 0u);
    if (options().order == Order::reversed)
        std::reverse(order.begin(), order.end());
    do {
        order_threads(order);
        for (unsigned i : order) {
            if (threads[i].state != State::ready)
                continue;
            current = &threads[i];
            switch_to(scheduler, current->fiber);
            current = nullptr;
            if (block.failed)
                return;
        }
    } while (count_state(State::ready) || release_barrier());
}

void run_block(std::uint64_t number) {
    block.index = {static_cast<unsigned>(number % block.grid.x),
                   static_cast<unsigned>(number / block.grid.x % block.grid.y),
                   static_cast<unsigned>(number / block.grid.x / block.grid.y)};
    ++block.serial;
    block.epoch = block.predicates = 0;
    clear_shared_arena();
    start_threads();
    run_threads();
    if (options().count)
        flush_counters(counters);
}

// Blocks in the chosen order: a walk with a stride that shares no divisor with their number visits each once.
void run_grid() {
    std::uint64_t blocks = std::uint64_t{block.grid.x} * block.grid.y * block.grid.z;
    std::uint64_t first = std::min(options().first_block, blocks), last = std::min(options().last_block, blocks);
    if (first >= last)
        return;
    std::uint64_t count = last - first, start = 0, stride = 1;
    if (options().order == Order::reversed)
        start = stride = count - 1;
    if (options().order == Order::shuffled) {
        start = random_number() % count;
        do
            stride = 1 + random_number() % count;
        while (std::gcd(stride, count) != 1);
    }
    for (std::uint64_t i = 0; i < count && !block.failed; ++i) {
        unsigned __int128 step = static_cast<unsigned __int128>(i) * stride + start;
        run_block(first + static_cast<std::uint64_t>(step % count));
    }
}

cudaError_t check_launch(const Launch& config) {
    const dim3 g = config.grid, b = config.block;
    std::uint64_t size = std::uint64_t{b.x} * b.y * b.z;
    if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (!size || b.x > 1024 || b.y > 1024 || b.z > 64 || size > max_threads)
        return cudaErrorInvalidConfiguration;
    auto opt_in = shared_opt_ins().find(config.kernel);
    std::size_t limit = opt_in == shared_opt_ins().end() ? default_shared_limit : opt_in->second;
    return config.dynamic_shared > limit ? cudaErrorInvalidValue : cudaSuccess;
}

} // namespace

Options& options() {
    static Options values;
    return values;
}

const std::vector<std::string>& reports() { return found; }
void clear_reports() { found.clear(); }

const std::vector<Launched>& launches() { return launched; }
void clear_launches() { launched.clear(); }
void count_instructions(std::uint64_t executed) { counters.instructions += executed; }

void report(cudaError_t code, const std::string& text) {
    if (block.error == cudaSuccess)
        block.error = code;
    bool known = std::find(found.begin(), found.end(), text) != found.end();
    if (!known && found.size() < max_reports)
        found.push_back(text);
}

std::uint64_t random_number() { // splitmix64 (Steele, Lea, Flood 2014)
    std::uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

std::string describe_thread(unsigned number) {
    auto triple = [](uint3 v) {
        return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
    };
    return "thread " + triple(threads[number].index) + " of block " + triple(block.index);
}

cudaError_t allow_dynamic_shared(const void* kernel, std::size_t bytes) {
    if (bytes > options().shared_limit)
        return cudaErrorInvalidValue;
    shared_opt_ins()[kernel] = std::max(bytes, default_shared_limit);
    return cudaSuccess;
}

cudaError_t launch(const Launch& config, const std::function<void()>& per_thread) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    if (cudaError_t refused = happen({"launch", machine().current, config.stream}))
        return refused;
    if (cudaError_t refused = check_launch(config))
        return refused;
    random_state = options().seed;
    block.grid = config.grid;
    block.block = config.block;
    block.threads = config.block.x * config.block.y * config.block.z;
    block.dynamic_shared = config.dynamic_shared;
    block.first_serial = block.serial + 1;
    block.failed = false;
    block.error = cudaSuccess;
    body = &per_thread;
    counters = {};
    start_shared_arena();
    run_grid();
    check_red_zones();
    if (options().log)
        launched.push_back({config, counters});
    return block.error;
}

void yield() { switch_to(current->fiber, scheduler); }

void fail(cudaError_t code, const std::string& what, Where where) {
    report(code, what + (where.bits ? " at " + describe(where) : "") + ", " + describe_thread(current->number));
    block.failed = true;
    yield();
    __builtin_unreachable();
}

uint3 thread_idx() { return current->index; }
uint3 block_idx() { return block.index; }
uint3 block_dim() { return {block.block.x, block.block.y, block.block.z}; }
uint3 grid_dim() { return {block.grid.x, block.grid.y, block.grid.z}; }
unsigned lane() { return current->number % 32; }

void barrier(Where where) { barrier_count(false, where); }

unsigned barrier_count(bool predicate, Where where) {
    current->where = where;
    current->state = State::at_barrier;
    block.predicates += predicate;
    yield();
    return block.last_predicates;
}

float fuzz(float value) {
    if (!options().fuzz)
        return value;
    for (std::uint64_t step = random_number() % 5; step != 2; step += step < 2 ? 1 : -1)
        value = __builtin_nextafterf(value, step < 2 ? -__builtin_inff() : __builtin_inff());
    return value;
}

double fuzz(double value) {
    if (!options().fuzz)
        return value;
    for (std::uint64_t step = random_number() % 5; step != 2; step += step < 2 ? 1 : -1)
        value = __builtin_nextafter(value, step < 2 ? -__builtin_inf() : __builtin_inf());
    return value;
}

} // namespace simt
