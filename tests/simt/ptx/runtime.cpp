#include "runtime.h"

#include <alloca.h>
#include <cstring>
#include <map>
#include <string>

namespace ptx {
namespace {

// Function-local: registrations run before this file's own static constructors may have.
std::map<int, std::map<std::string, Kernel>>& registry() {
    static std::map<int, std::map<std::string, Kernel>> kernels;
    return kernels;
}
int selected = 0;

constexpr std::size_t alignment = 128; // of local variables

void run(const Kernel& kernel, void* const* args) {
    const std::size_t registers = sizeof(Frame) + kernel.slots * sizeof(u64);
    char* memory = static_cast<char*>(alloca(registers + kernel.local_bytes + 2 * alignment));
    auto aligned = [](char* p) { return p + (-reinterpret_cast<u64>(p) & (alignment - 1)); };
    Frame& frame = *reinterpret_cast<Frame*>(aligned(memory));
    std::memset(&frame, 0, registers);
    frame.code = ptx_words + kernel.start;
    frame.args = args;
    frame.local = aligned(reinterpret_cast<char*>(&frame) + registers);
    u64 executed = 0;
    for (const u64* at = frame.code; at; ++executed)
        at = forms[*at](frame, at + 1);
    simt::count_instructions(executed);
}

} // namespace

Registration::Registration(int arch, std::initializer_list<Kernel> kernels) {
    for (const Kernel& kernel : kernels)
        registry()[arch].emplace(kernel.name, kernel);
    selected = arch;
}

bool select(int arch) {
    selected = registry().count(arch) ? arch : selected;
    return selected == arch;
}

const Kernel* find(const char* name) {
    auto& kernels = registry()[selected];
    auto found = kernels.find(name);
    return found == kernels.end() ? nullptr : &found->second;
}

cudaError_t launch(const Kernel& kernel, const simt::Launch& config, void* const* args) {
    const dim3 block = config.block;
    if (block.x * block.y * block.z > static_cast<unsigned>(kernel.max_threads))
        return cudaErrorInvalidValue;
    simt::Launch named = config;
    named.name = kernel.name;
    return simt::launch(named, [&] { run(kernel, args); });
}

} // namespace ptx

extern "C" {

int ptx_select(int arch) { return ptx::select(arch); }

// The names, a line each, of the kernels whose code is not one and the same for two architectures.
const char* ptx_differing(int a, int b) {
    static std::string text;
    text.clear();
    for (const auto& [name, kernel] : ptx::registry()[a])
        if (auto other = ptx::registry()[b].find(name);
            other == ptx::registry()[b].end() || other->second.start != kernel.start)
            text += name + "\n";
    return text.c_str();
}

int ptx_launch(const char* name, const unsigned* grid, const unsigned* block, std::size_t shared, void** args) {
    const ptx::Kernel* kernel = ptx::find(name);
    if (!kernel)
        return cudaErrorSymbolNotFound;
    const simt::Launch config{dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), shared,
                              kernel->name};
    return ptx::launch(*kernel, config, args);
}

} // extern "C"
