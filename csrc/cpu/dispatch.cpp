// Chooses the instruction set once, and borrows torch's threads.

#include "dispatch.h"
#include "elementary.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include <dlfcn.h>
#include <pthread.h>

namespace pfk::cpu {

namespace {

constexpr const char* kNames[] = {"v4", "v3", "v2", "baseline"}; // in the order of PFK_KERNEL's arrays: the best first
constexpr int kLevels = sizeof(kNames) / sizeof(*kNames);

bool is_compiled(int level) { return elementary[level] != nullptr; }

bool runs(int level) {
#ifdef __x86_64__
    __builtin_cpu_init();
    const bool supported[] = {__builtin_cpu_supports("x86-64-v4") > 0, __builtin_cpu_supports("x86-64-v3") > 0,
                              __builtin_cpu_supports("x86-64-v2") > 0, true};
    return supported[level];
#else
    return level == kLevels - 1;
#endif
}

int choose() {
    const char* wanted = std::getenv("PYFLOWK_ISA");
    const bool free = wanted == nullptr || *wanted == '\0';
    std::string names;
    for (int level = 0; level < kLevels; ++level) {
        if (!is_compiled(level))
            continue;
        if (free ? runs(level) : std::strcmp(wanted, kNames[level]) == 0) {
            if (!runs(level))
                throw std::runtime_error(std::string("PYFLOWK_ISA=") + wanted + ": this processor cannot run it");
            return level;
        }
        names += (names.empty() ? "" : ", ") + std::string(kNames[level]);
    }
    if (!free)
        throw std::runtime_error(std::string("PYFLOWK_ISA: expected one of ") + names + "; got " + wanted);
    throw std::runtime_error("this processor runs none of the instruction sets that were compiled (" + names +
                             "); build with PYFLOWK_LEVELS=all (x86-64-v2, with SSE4.2, is the least)");
}

// torch's C symbols (torch >= 2.10). Found at run time, so that nothing of torch is linked; absent, work is serial.
using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);

ParallelFor torch_parallel_for() {
    static const ParallelFor symbol = [] {
        // torch_cpu is in the process already (pyflowk imports torch first) but not in the global scope
        void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
        void* found =
            library != nullptr ? dlsym(library, "torch_parallel_for") : dlsym(RTLD_DEFAULT, "torch_parallel_for");
        return reinterpret_cast<ParallelFor>(found);
    }();
    return symbol;
}

struct Task {
    void (*work)(void*, int64_t, int64_t);
    void* context;
    std::atomic<bool> out_of_memory{false};
};

void run_task(int64_t begin, int64_t end, void* task) {
    Task& t = *static_cast<Task*>(task);
    try {
        t.work(t.context, begin, end);
    } catch (const std::bad_alloc&) { // torch's threads must not see what a kernel throws
        t.out_of_memory = true;
    } catch (const Interrupted&) { // which `interrupted` says
    }
}

// Of the call that is going on: Python's lock is held, there is no other.
pthread_t caller;
std::atomic<bool> interrupted{false};

// Elements below which a second thread costs more than it brings. Affine coupling, Zen 5: 49,152 elements take 18 us,
// 13 with a second thread that still spins, but 24 instead of 23 with one that sleeps, and 131,072 take 44 instead
// of 49. Where the other core is taken, the wait is for a slice of its time, 5 to 40 ms, whatever the size.
constexpr int64_t kSerial = 65536;

} // namespace

int level() {
    static const int chosen = choose();
    return chosen;
}

const char* isa() { return kNames[level()]; }

void parallel_rows(int64_t rows, int64_t cost, void (*work)(void*, int64_t, int64_t), void* context) {
    if (rows <= 0)
        return;
    caller = pthread_self(), interrupted = false;
    const ParallelFor parallel_for = rows > 1 && rows * cost > kSerial ? torch_parallel_for() : nullptr;
    if (parallel_for == nullptr)
        return work(context, 0, rows);
    Task task{work, context, {}};
    const int64_t grain = kSerial / (2 * (cost > 0 ? cost : 1)) + 1;
    if (parallel_for(0, rows, grain, run_task, &task) != 0)
        throw std::runtime_error("torch_parallel_for failed");
    if (task.out_of_memory)
        throw std::bad_alloc();
    if (interrupted)
        throw Interrupted{};
}

bool (*signal_raised)() = nullptr;

void check_interrupt() {
    if (signal_raised != nullptr && pthread_equal(caller, pthread_self()) && signal_raised())
        interrupted = true;
    if (interrupted)
        throw Interrupted{};
}

} // namespace pfk::cpu
