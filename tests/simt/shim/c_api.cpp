// The core for Python's ctypes.
#include "core.h"

#include <dlfcn.h>

#include <algorithm>

extern "C" {

void simt_set_options(int order, std::uint64_t seed, unsigned preempt, int check, int host_memory, int count, int fuzz,
                      int log, std::uint64_t shared_limit, std::uint64_t first_block, std::uint64_t last_block) {
    simt::options() = {static_cast<simt::Order>(order),
                       seed,
                       preempt,
                       check != 0,
                       host_memory != 0,
                       count != 0,
                       fuzz != 0,
                       log != 0,
                       static_cast<std::size_t>(shared_limit),
                       first_block,
                       last_block};
}

// Tensors are on one card, the thread has made one current; nothing has happened yet.
void simt_start(int tensors_on, int current, int capturing, int both_awake) {
    simt::machine() = {tensors_on, current, capturing != 0, true, {both_awake != 0, both_awake != 0}};
    simt::machine().awake[tensors_on] = true; // torch put them there
    simt::events().clear();
}
void simt_stop() { simt::machine() = {}; }
int simt_current() { return simt::machine().current; }
void simt_make_current(int card) { cudaSetDevice(card); }
const void* simt_stream(int card) { return simt::stream_of(card); }
int simt_awake(int card) { return simt::machine().awake[card]; }

struct EventRow {
    const char* call;
    int card, on_its_stream;
};
std::size_t simt_event_count() { return simt::events().size(); }
void simt_event(std::size_t i, EventRow* row) {
    const simt::Event& e = simt::events().at(i);
    *row = {e.call, e.card, e.stream == simt::stream_of(e.card)};
}

std::size_t simt_report_count() { return simt::reports().size(); }
const char* simt_report(std::size_t i) { return simt::reports().at(i).c_str(); }
void simt_clear_reports() { simt::clear_reports(); }

void* simt_allocate(const char* name, std::size_t bytes, std::size_t shift, int initialised) {
    return simt::allocate(name, bytes, shift, initialised != 0);
}
void simt_release(void* address) { simt::release(address); }
void simt_adopt(const char* name, const void* address, std::size_t bytes, int initialised) {
    simt::adopt(name, address, bytes, initialised != 0);
}
void simt_forget(const void* address) { simt::forget(address); }
void simt_mark_initialised(const void* address, std::size_t bytes) { simt::mark_initialised(address, bytes); }

// Row i of the traffic table; the strings live until the next call.
struct TrafficRow {
    const char *where, *array;
    int shared, write;
    std::uint64_t requests, units, minimum;
};
std::size_t simt_traffic_count() { return simt::traffic().size(); }
void simt_traffic(std::size_t i, TrafficRow* row) {
    static std::string where, array;
    const simt::Traffic t = simt::traffic().at(i);
    where = simt::describe(t.where);
    array = t.array;
    *row = {where.c_str(), array.c_str(), t.shared, t.write, t.requests, t.units, t.minimum};
}
void simt_clear_traffic() { simt::clear_traffic(); }

// Row i of the log of launches; a kernel without a name is told by its place in this library.
struct LaunchRow {
    const char* name;
    std::uint64_t offset;
    unsigned grid[3], block[3];
    std::uint64_t dynamic_shared;
    simt::Counters counters;
};
std::size_t simt_launch_count() { return simt::launches().size(); }
void simt_launch(std::size_t i, LaunchRow* row) {
    const simt::Launched& launch = simt::launches().at(i);
    const auto& [grid, block, shared, kernel, stream, name] = launch.config;
    Dl_info info = {};
    if (!name)
        dladdr(kernel, &info);
    *row = {name,
            reinterpret_cast<std::uint64_t>(kernel) - reinterpret_cast<std::uint64_t>(info.dli_fbase),
            {grid.x, grid.y, grid.z},
            {block.x, block.y, block.z},
            shared,
            launch.counters};
}
void simt_clear_launches() { simt::clear_launches(); }
}
