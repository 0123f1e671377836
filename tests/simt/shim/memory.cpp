// Test buffers with red zones, foreign memory, and the arena of shared memory.
#include "core.h"
#include "state.h"

#include <algorithm>
#include <cstring>
#include <link.h>
#include <map>
#include <pthread.h>
#include <sys/mman.h>

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#define SIMT_POISON(address, bytes) __asan_poison_memory_region(address, bytes)
#define SIMT_UNPOISON(address, bytes) __asan_unpoison_memory_region(address, bytes)
#else
#define SIMT_POISON(address, bytes) ((void)(address), (void)(bytes))
#define SIMT_UNPOISON(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace simt {
namespace {

constexpr std::size_t red_zone = 256;
constexpr unsigned char red = 0xFF;
constexpr std::size_t sparse = 64 << 20; // from here on a buffer's pages are left to the kernel to touch
constexpr std::size_t arena_bytes = 512 * 1024;
constexpr std::size_t static_limit = 48 * 1024;
constexpr std::size_t gap = 64;
constexpr std::size_t alignment = 256;

struct Buffer {
    char* mapping = nullptr; // null: foreign memory
    std::size_t mapped = 0;
};
std::map<std::uintptr_t, Region>& regions() { // by begin
    static std::map<std::uintptr_t, Region> all;
    return all;
}
std::map<std::uintptr_t, Buffer> buffers; // same keys, own ones only
const Region* last_region = nullptr;      // accesses come in runs

struct SharedArray {
    const void* tag;
    Region region;
};
std::vector<SharedArray> shared_arrays; // of this launch; the first is the dynamic part
std::size_t arena_used = 0, static_bytes = 0;

char* arena() {
    static char* base = static_cast<char*>(
        mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    return base;
}

std::uintptr_t number(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }
std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

Region& add_shared(const void* tag, const char* name, std::size_t bytes, std::size_t offset) {
    std::uintptr_t begin = number(arena()) + offset;
    shared_arrays.push_back({tag, {begin, begin + bytes, name, false, true}});
    arena_used = offset + bytes;
    SIMT_UNPOISON(arena() + offset, bytes);
    std::memset(arena() + offset, red, bytes);
    return shared_arrays.back().region;
}

bool red_zone_intact(const Region& region, const Buffer& buffer) {
    auto is_red = [](char c) { return static_cast<unsigned char>(c) == red; };
    SIMT_UNPOISON(buffer.mapping, buffer.mapped);
    auto begin = reinterpret_cast<char*>(region.begin), end = reinterpret_cast<char*>(region.end);
    bool intact = std::all_of(std::max(buffer.mapping, begin - 2 * red_zone), begin, is_red) &&
                  std::all_of(end, std::min(buffer.mapping + buffer.mapped, end + 2 * red_zone), is_red);
    SIMT_POISON(buffer.mapping, begin - buffer.mapping);
    SIMT_POISON(end, buffer.mapping + buffer.mapped - end);
    return intact;
}

} // namespace

// ---- Buffers ------------------------------------------------------------------------------------------------------
void* allocate(const char* name, std::size_t bytes, std::size_t shift, bool initialised) {
    Buffer buffer;
    buffer.mapped = round_up(red_zone + shift + bytes + red_zone, 4096);
    void* mapping =
        mmap(nullptr, buffer.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return nullptr;
    buffer.mapping = static_cast<char*>(mapping);
    char* begin = buffer.mapping + red_zone + shift;
    std::memset(buffer.mapping, red, red_zone + shift);
    std::memset(begin + bytes, red, buffer.mapping + buffer.mapped - begin - bytes);
    SIMT_POISON(buffer.mapping, red_zone + shift);
    SIMT_POISON(begin + bytes, buffer.mapping + buffer.mapped - begin - bytes);
    if (!initialised && bytes < sparse)
        std::memset(begin, red, bytes);
    adopt(name, begin, bytes, initialised);
    buffers[number(begin)] = buffer;
    return begin;
}

void release(void* address) {
    auto found = buffers.find(number(address));
    if (found == buffers.end())
        return;
    Buffer buffer = found->second;
    buffers.erase(found);
    forget(address);
    SIMT_UNPOISON(buffer.mapping, buffer.mapped);
    munmap(buffer.mapping, buffer.mapped);
}

void adopt(const char* name, const void* address, std::size_t bytes, bool initialised) {
    last_region = nullptr;
    forget_cells(address, bytes);
    regions()[number(address)] = {number(address), number(address) + bytes, name, initialised, false};
}

void forget(const void* address) {
    auto found = regions().find(number(address));
    if (found == regions().end())
        return;
    last_region = nullptr;
    forget_cells(address, found->second.end - found->second.begin);
    regions().erase(found);
}

void mark_initialised(const void* address, std::size_t bytes) { mark_cells(address, bytes); }

void check_red_zones() {
    for (const auto& [begin, buffer] : buffers) {
        const Region& region = regions()[begin];
        if (!red_zone_intact(region, buffer))
            report(cudaErrorIllegalAddress, "OUT OF BOUNDS write next to " + region.name + " (red zone damaged)");
    }
}

// ---- Regions ------------------------------------------------------------------------------------------------------
bool in_shared_arena(const void* address) { return number(address) - number(arena()) < arena_bytes; }

const Region* find_region(const void* address, std::size_t bytes) {
    std::uintptr_t a = number(address);
    if (in_shared_arena(address)) {
        for (const SharedArray& s : shared_arrays)
            if (s.region.begin <= a && a + bytes <= s.region.end)
                return &s.region;
        return nullptr;
    }
    if (last_region && last_region->begin <= a && a + bytes <= last_region->end)
        return last_region;
    for (auto next = regions().upper_bound(a); next != regions().begin();) { // views of one tensor may overlap
        const Region& region = (--next)->second;
        if (a + bytes <= region.end)
            return last_region = &region;
    }
    return nullptr;
}

std::string describe_address(const void* address) {
    std::uintptr_t a = number(address);
    const Region* nearest = nullptr;
    std::uintptr_t best = ~std::uintptr_t{0};
    auto consider = [&](const Region& r) {
        std::uintptr_t distance = a < r.begin ? r.begin - a : a >= r.end ? a - r.end + 1 : 0;
        if (distance < best)
            best = distance, nearest = &r;
    };
    if (in_shared_arena(address))
        for (const SharedArray& s : shared_arrays)
            consider(s.region);
    else
        for (const auto& entry : regions())
            consider(entry.second);
    if (!nearest)
        return "an unknown address";
    std::string name = (nearest->shared ? "shared " : "") + nearest->name;
    std::string size = " (" + std::to_string(nearest->end - nearest->begin) + " bytes)";
    if (a < nearest->begin)
        return std::to_string(nearest->begin - a) + " bytes before " + name + size;
    if (a >= nearest->end)
        return std::to_string(a - nearest->end) + " bytes past the end of " + name + size;
    return name + "+" + std::to_string(a - nearest->begin);
}

namespace {
struct HostStack {
    void* base = nullptr;
    std::size_t size = 0;
    HostStack() {
        pthread_attr_t attributes;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &base, &size);
        pthread_attr_destroy(&attributes);
    }
};
} // namespace

bool is_exempt(const void* address) {
    thread_local const HostStack stack;
    if (number(address) - number(stack.base) < stack.size)
        return true;
    auto contains = [](dl_phdr_info* info, std::size_t, void* wanted) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            if (segment.p_type == PT_LOAD && number(wanted) - info->dlpi_addr - segment.p_vaddr < segment.p_memsz)
                return 1;
        }
        return 0;
    };
    return dl_iterate_phdr(contains, const_cast<void*>(address)) != 0;
}

// ---- Shared memory ------------------------------------------------------------------------------------------------
void start_shared_arena() {
    shared_arrays.clear();
    static_bytes = 0;
    SIMT_POISON(arena(), arena_bytes);
    add_shared(nullptr, "dynamic shared memory", block.dynamic_shared, 0);
}

void clear_shared_arena() {
    for (const SharedArray& s : shared_arrays)
        std::memset(reinterpret_cast<void*>(s.region.begin), red, s.region.end - s.region.begin);
}

char* shared_base() { return arena(); }
void* shared_dynamic() { return arena(); }
std::size_t dynamic_shared_bytes() { return block.dynamic_shared; }

void* shared_static(const void* tag, const char* name, std::size_t bytes, std::size_t align, Where where) {
    for (const SharedArray& s : shared_arrays)
        if (s.tag == tag)
            return reinterpret_cast<void*>(s.region.begin);
    static_bytes += bytes;
    if (static_bytes > static_limit)
        fail(cudaErrorInvalidValue, "SHARED MEMORY: static arrays exceed 48 KiB with " + std::string(name), where);
    if (static_bytes + block.dynamic_shared > options().shared_limit)
        fail(cudaErrorInvalidValue, "SHARED MEMORY: static and dynamic parts exceed the card with " + std::string(name),
             where);
    std::size_t offset = round_up(arena_used + gap, std::max(align, alignment));
    return reinterpret_cast<void*>(add_shared(tag, name, bytes, offset).begin);
}

} // namespace simt
