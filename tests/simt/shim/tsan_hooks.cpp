// Checker mode: kernels are compiled with -fsanitize=thread but libtsan is not linked; these are its entry points.
// They are called before each load and store with unmodified kernel source.
#include "core.h"

#include <cstring>

#define SIMT_HERE simt::Where(__builtin_return_address(0))
#define SIMT_HOOK(name, kind, bytes)                                                                                   \
    void name(void* address) { simt::access(simt::Access::kind, address, bytes, SIMT_HERE); }
#define SIMT_HOOKS(bytes)                                                                                              \
    SIMT_HOOK(__tsan_read##bytes, read, bytes)                                                                         \
    SIMT_HOOK(__tsan_write##bytes, write, bytes)                                                                       \
    SIMT_HOOK(__tsan_volatile_read##bytes, read, bytes)                                                                \
    SIMT_HOOK(__tsan_volatile_write##bytes, write, bytes)                                                              \
    SIMT_HOOK(__tsan_unaligned_read##bytes, read, bytes)                                                               \
    SIMT_HOOK(__tsan_unaligned_write##bytes, write, bytes)

extern "C" {
SIMT_HOOKS(1)
SIMT_HOOKS(2)
SIMT_HOOKS(4)
SIMT_HOOKS(8)
SIMT_HOOKS(16)

void __tsan_read_range(void* address, unsigned long bytes) {
    simt::access(simt::Access::read, address, bytes, SIMT_HERE);
}
void __tsan_write_range(void* address, unsigned long bytes) {
    simt::access(simt::Access::write, address, bytes, SIMT_HERE);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Guards of function-local statics in host code.
unsigned char __tsan_atomic8_load(const volatile unsigned char* address, int) { return *address; }

// The instrumenter leaves these calls alone; the build renames them in kernel objects.
void* simt_memcpy(void* to, const void* from, std::size_t bytes) {
    simt::access(simt::Access::read, from, bytes, SIMT_HERE);
    simt::access(simt::Access::write, to, bytes, SIMT_HERE);
    return std::memcpy(to, from, bytes);
}
void* simt_memmove(void* to, const void* from, std::size_t bytes) {
    simt::access(simt::Access::read, from, bytes, SIMT_HERE);
    simt::access(simt::Access::write, to, bytes, SIMT_HERE);
    return std::memmove(to, from, bytes);
}
void* simt_memset(void* to, int value, std::size_t bytes) {
    simt::access(simt::Access::write, to, bytes, SIMT_HERE);
    return std::memset(to, value, bytes);
}
}
