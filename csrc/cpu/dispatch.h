// How the CPU kernels are called: on one instruction set, chosen once, on torch's threads.
#pragma once

#include <cstdint>

namespace pfk::cpu {

// The place, in PFK_KERNEL's arrays, of the best instruction set of this machine, or of the one that PYFLOWK_ISA names;
// throws if that one cannot run.
int level();

// Its name.
const char* isa();

// Calls work(context, begin, end) on pieces of [0, rows), on torch's threads when there is enough to do.
// `cost` is the number of elements of one row.
void parallel_rows(int64_t rows, int64_t cost, void (*work)(void*, int64_t, int64_t), void* context);

// What a kernel throws, and parallel_rows, where the call is to end before it is done.
struct Interrupted {};

// Throws Interrupted where it is, for kernels that may work for seconds: the thread that called asks Python, the others
// hear of it.
void check_interrupt();

// Whether a signal's handler has raised, which Python then knows; set by the module.
extern bool (*signal_raised)();

} // namespace pfk::cpu
