// Chooses the instruction set once, and borrows torch's threads.

#include "kernels.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include <dlfcn.h>

namespace pfk::cpu {

#define PFK_DECLARE(name, Problem) void name(const Problem&, int64_t, int64_t);
#define PFK_ENTRY(name, Problem) name,
#define PFK_TABLE(level)                                                                                               \
    namespace level {                                                                                                  \
    PFK_CPU_KERNELS(PFK_DECLARE)                                                                                       \
    const Kernels table = {#level, PFK_CPU_KERNELS(PFK_ENTRY)};                                                        \
    }

// Which levels were compiled: PFK_LEVEL_*, from CMakeLists.txt.
#ifdef PFK_LEVEL_v2
PFK_TABLE(v2)
#endif
#ifdef PFK_LEVEL_v3
PFK_TABLE(v3)
#endif
#ifdef PFK_LEVEL_v4
PFK_TABLE(v4)
#endif
#ifdef PFK_LEVEL_baseline
PFK_TABLE(baseline)
#endif

namespace {

struct Level {
    const Kernels* table;
    bool runs;
};

const Kernels& choose() {
#ifdef __x86_64__
    __builtin_cpu_init();
#endif
    const Level levels[] = {
#ifdef PFK_LEVEL_v4
        {&v4::table, __builtin_cpu_supports("x86-64-v4") > 0},
#endif
#ifdef PFK_LEVEL_v3
        {&v3::table, __builtin_cpu_supports("x86-64-v3") > 0},
#endif
#ifdef PFK_LEVEL_v2
        {&v2::table, __builtin_cpu_supports("x86-64-v2") > 0},
#endif
#ifdef PFK_LEVEL_baseline
        {&baseline::table, true},
#endif
    };
    const char* wanted = std::getenv("PYFLOWK_ISA");
    std::string names;
    for (const Level& level : levels) {
        if (wanted == nullptr || *wanted == '\0' ? level.runs : std::strcmp(wanted, level.table->isa) == 0) {
            if (!level.runs)
                throw std::runtime_error(std::string("PYFLOWK_ISA=") + wanted + ": this processor cannot run it");
            return *level.table;
        }
        names += (names.empty() ? "" : ", ") + std::string(level.table->isa);
    }
    if (wanted != nullptr && *wanted != '\0')
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
    } catch (const std::bad_alloc&) { // all that a kernel throws; torch's threads must not see it
        t.out_of_memory = true;
    }
}

// Elements below which a second thread costs more than it brings. Affine coupling, Zen 5: 49,152 elements take 18 us,
// 13 with a second thread that still spins, but 24 instead of 23 with one that sleeps, and 131,072 take 44 instead
// of 49. Where the other core is taken, the wait is for a slice of its time, 5 to 40 ms, whatever the size.
constexpr int64_t kSerial = 65536;

} // namespace

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

void parallel_rows(int64_t rows, int64_t cost, void (*work)(void*, int64_t, int64_t), void* context) {
    if (rows <= 0)
        return;
    const ParallelFor parallel_for = rows > 1 && rows * cost > kSerial ? torch_parallel_for() : nullptr;
    if (parallel_for == nullptr)
        return work(context, 0, rows);
    Task task{work, context, {}};
    const int64_t grain = kSerial / (2 * (cost > 0 ? cost : 1)) + 1;
    if (parallel_for(0, rows, grain, run_task, &task) != 0)
        throw std::runtime_error("torch_parallel_for failed");
    if (task.out_of_memory)
        throw std::bad_alloc();
}

} // namespace pfk::cpu
