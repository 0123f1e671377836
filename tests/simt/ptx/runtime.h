// The translated program: a thread runs its kernel's words, each instruction the number of its form and the form's
// words.
#pragma once

#include "ops.h"

#include <initializer_list>

namespace ptx {

struct Frame { // of one thread; the slots hold registers and the addresses of variables
    const u64* code;
    void* const* args;
    char* local;
    u64 slots[];
    template <class T> T& slot(u64 number) { return reinterpret_cast<T&>(slots[number]); }
};

using Form = const u64* (*)(Frame& f, const u64* s); // gives the next instruction, null at the end
extern const Form forms[];
extern const char* const places[];
extern "C" __attribute__((visibility("hidden"))) const u64 ptx_words[];
extern "C" __attribute__((visibility("hidden"))) const char ptx_tables[];
inline const char* const tables = ptx_tables;
inline Where where(u64 word) { return Where(places[word >> 32], static_cast<int>(word)); }

struct Kernel {
    const char* name;
    u64 start; // in ptx_words
    u64 slots, local_bytes;
    int max_threads; // .maxntid: a larger block is refused
};

struct Registration {
    Registration(int arch, std::initializer_list<Kernel> kernels);
};

bool select(int arch);                // from now on find() looks here; false if nothing was translated for it
const Kernel* find(const char* name); // null where no translated kernel has this name
cudaError_t launch(const Kernel& kernel, const simt::Launch& config, void* const* args);

} // namespace ptx
