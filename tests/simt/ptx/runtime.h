// Where translated kernels register themselves by architecture and PTX name, and how a host finds and launches them.
#pragma once

#include "ops.h"

#include <initializer_list>
#include <string>

namespace ptx {

struct Kernel {
    const char* name;
    void (*run)(void* const* args); // once per thread
    int max_threads;                // .maxntid: a larger block is refused
};

struct Registration {
    Registration(int arch, std::initializer_list<Kernel> kernels);
};

bool select(int arch);                // from now on find() looks here; false if nothing was translated for it
const Kernel* find(const char* name); // null where no translated kernel has this name
cudaError_t launch(const Kernel& kernel, const simt::Launch& config, void* const* args);

} // namespace ptx
