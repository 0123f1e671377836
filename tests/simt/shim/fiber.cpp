#include "fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

#if defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_OWN_SWITCH
#else
#include <ucontext.h>
#endif

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024; // its lowest page is a guard
constexpr std::size_t guard_bytes = 4096;

char* map_stacks() {
    void* base = mmap(nullptr, max_threads * stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        std::perror("simt: mmap of the fiber stacks");
        std::abort();
    }
    return static_cast<char*>(base);
}

char* stacks() {
    static char* base = map_stacks();
    return base;
}

} // namespace

bool on_fiber_stack(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(stacks()) <
           max_threads * stack_bytes;
}

#if defined(SIMT_OWN_SWITCH)
// Saves the callee-saved registers on the old stack and takes them from the new one.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, .-simt_switch
)");
#endif

void prepare(Context& fiber, int number, void (*entry)()) {
    // Guards only for the stacks in use: each one splits the mapping, of which a process may hold some 65,000, and
    // every library that is loaded has its own stacks.
    static int guarded = 0;
    for (; guarded <= number; ++guarded)
        mprotect(stacks() + guarded * stack_bytes, guard_bytes, PROT_NONE);
    char* bottom = stacks() + number * stack_bytes + guard_bytes;
    fiber.stack_bottom = bottom;
    fiber.stack_size = stack_bytes - guard_bytes;
    fiber.fake_stack = nullptr;
#if defined(SIMT_ASAN)
    __asan_unpoison_memory_region(bottom, fiber.stack_size); // the last user may have been abandoned in mid-function
#endif
#if defined(SIMT_OWN_SWITCH)
    // Six zero registers, the entry as return address, a null return; the entry sees the alignment a call gives.
    void** top = reinterpret_cast<void**>(bottom + fiber.stack_size);
    for (int i = 1; i <= 8; ++i)
        top[-i] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);
    fiber.machine = top - 8;
#else
    static ucontext_t contexts[max_threads];
    ucontext_t* context = &contexts[number];
    getcontext(context);
    context->uc_stack.ss_sp = bottom;
    context->uc_stack.ss_size = fiber.stack_size;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    fiber.machine = context;
#endif
}

void arrived([[maybe_unused]] Context& at) {
#if defined(SIMT_ASAN)
    const void* bottom = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(at.fake_stack, &bottom, &size);
#endif
}

void switch_to(Context& from, Context& to) {
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack_bottom, to.stack_size);
#endif
#if defined(SIMT_OWN_SWITCH)
    simt_switch(&from.machine, to.machine);
#else
    static ucontext_t host; // the only flow that is not a fiber
    if (!from.machine)
        from.machine = &host;
    swapcontext(static_cast<ucontext_t*>(from.machine), static_cast<ucontext_t*>(to.machine));
#endif
    arrived(from);
}

} // namespace simt
