// Fibers: fixed stacks in one lazily committed mapping and a hand-written switch (ucontext on other machines).
#pragma once

#include <cstddef>

namespace simt {

constexpr int max_threads = 1024;

struct Context {                        // a suspended flow of control
    void* machine = nullptr;            // its stack pointer, or its ucontext_t
    void* fake_stack = nullptr;         // AddressSanitizer's
    const void* stack_bottom = nullptr; // lowest address
    std::size_t stack_size = 0;
};

void prepare(Context& fiber, int number, void (*entry)()); // entry runs on stack `number` and must never return
void switch_to(Context& from, Context& to);
void arrived(Context& at); // first statement of every entry function
bool on_fiber_stack(const void* address);

} // namespace simt
