// The happens-before checker: every byte that a kernel touches remembers who wrote and who read it last.
//
// Two accesses are ordered if they belong to different launches, to one thread, to one block with a barrier between, or
// to one warp with a __syncwarp between (vector clocks). Blocks of one launch are never ordered. Atomics order nothing.
#include "core.h"
#include "state.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>
#include <unordered_map>

namespace simt {
namespace {

struct Stamp { // accesses of some lanes of one warp, made under the same clock value
    std::uint64_t where = 0;
    std::uint32_t serial = 0; // of the block; 0: none
    std::uint32_t epoch = 0, clock = 0, lanes = 0, warp = 0;
};

constexpr std::uint32_t host_serial = 1;

bool ordered(const Stamp& s) { // before the running thread's next access
    if (s.serial < block.first_serial)
        return true;
    if (s.serial != block.serial)
        return false;
    if (s.epoch < block.epoch)
        return true;
    if (s.warp != current->number / 32)
        return false;
    for (std::uint32_t others = s.lanes & ~(1u << lane()); others; others &= others - 1)
        if (current->clock[__builtin_ctz(others)] < s.clock)
            return false;
    return true;
}

// Accesses of one kind to one cell. Two mutually unordered stamps are enough: of two from different blocks or warps any
// later writer conflicts with one.
struct History {
    Stamp stamps[2];

    const Stamp* unordered() const {
        for (const Stamp& s : stamps)
            if (s.serial && !ordered(s))
                return &s;
        return nullptr;
    }
    void add(const Stamp& mine) {
        for (Stamp& s : stamps)
            if (s.serial == mine.serial && s.epoch == mine.epoch && s.warp == mine.warp && s.clock == mine.clock) {
                s.lanes |= mine.lanes;
                s.where = mine.where;
                return;
            }
        for (Stamp& s : stamps)
            if (ordered(s)) {
                s = mine;
                return;
            }
        if (stamps[0].serial == stamps[1].serial && stamps[0].warp == stamps[1].warp)
            stamps[1] = mine;
    }
};

struct Cell {
    Stamp write;
    History reads, atomics;
    std::uint32_t owner = 0; // shared memory: serial of the block that used it last
};

// Cells by kilobyte; one cell covers `grain` bytes: 4, until a finer access asks for less.
constexpr std::size_t page_bytes = 1024;
struct Page {
    std::size_t grain = 4;
    std::vector<Cell> cells = std::vector<Cell>(page_bytes / 4);

    void refine(std::size_t wanted) {
        std::vector<Cell> finer(page_bytes / wanted);
        for (std::size_t i = 0; i < finer.size(); ++i)
            finer[i] = cells[i * wanted / grain];
        cells.swap(finer);
        grain = wanted;
    }
};
std::unordered_map<std::uintptr_t, Page> pages;

// Calls function(cell) for every cell that meets [address, address + bytes).
template <class Function> void for_cells(std::uintptr_t address, std::size_t bytes, Function function) {
    std::size_t wanted = address % 4 == 0 && bytes % 4 == 0 ? 4 : address % 2 == 0 && bytes % 2 == 0 ? 2 : 1;
    for (std::uintptr_t end = address + bytes; address < end;) {
        Page& page = pages[address / page_bytes];
        if (page.grain > wanted)
            page.refine(wanted);
        std::uintptr_t stop = std::min(end, (address / page_bytes + 1) * page_bytes);
        for (; address < stop; address += page.grain)
            function(page.cells[address % page_bytes / page.grain]);
    }
}

std::string name(Access kind) { return kind == Access::read ? "read" : kind == Access::write ? "write" : "atomic"; }

bool first_time(std::uint64_t earlier, Where where) { // in this launch
    static std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>> known;
    return known.insert({earlier, where.bits, block.first_serial}).second;
}

void report_uninitialised(Access kind, const void* address, std::size_t bytes, Where where) {
    if (!first_time(0, where))
        return;
    report(cudaErrorLaunchFailure, "UNINITIALISED " + name(kind) + " of " + std::to_string(bytes) + " bytes at " +
                                       describe_address(address) + ", " + describe(where) + ", " +
                                       describe_thread(current->number));
}

void report_race(Access kind, const char* earlier, const Stamp& other, const void* address, std::size_t bytes,
                 Where where) {
    if (!first_time(other.where, where))
        return;
    Where there;
    there.bits = other.where;
    std::uint32_t lanes = other.lanes & ~(other.warp == current->number / 32 ? 1u << lane() : 0u);
    unsigned thread = other.warp * 32 + static_cast<unsigned>(__builtin_ctz(lanes ? lanes : other.lanes));
    report(cudaErrorLaunchFailure, "RACE " + name(kind) + "-after-" + earlier + " of " + std::to_string(bytes) +
                                       " bytes at " + describe_address(address) + ", " + describe(where) + ", " +
                                       describe_thread(current->number) + "; earlier " + earlier + " at " +
                                       describe(there) + ", thread number " + std::to_string(thread) +
                                       (other.serial == block.serial ? " of the same block" : " of another block"));
}

const Stamp* find_conflict(const Cell& cell, Access kind, const char*& what) {
    what = "write";
    if (cell.write.serial && !ordered(cell.write))
        return &cell.write;
    what = "atomic";
    if (kind != Access::atomic)
        if (const Stamp* s = cell.atomics.unordered())
            return s;
    what = "read";
    return kind == Access::read ? nullptr : cell.reads.unordered();
}

bool is_benign(const Cell& cell, const Stamp& other) { // store of an equal value by another lane of the same warp
    return &other == &cell.write && other.serial == block.serial && other.warp == current->number / 32;
}

void check_cells(const Region& region, Access kind, const void* address, std::size_t bytes, Where where,
                 bool same_value) {
    const Stamp mine = {where.bits,   block.serial,        block.epoch, current->clock[lane()],
                        1u << lane(), current->number / 32};
    const Stamp* other = nullptr;
    const char* what = nullptr;
    Stamp conflict;
    bool uninitialised = false;
    for_cells(reinterpret_cast<std::uintptr_t>(address), bytes, [&](Cell& cell) {
        if (region.shared && cell.owner != block.serial)
            cell = Cell(); // left by an earlier block
        cell.owner = block.serial;
        bool written = cell.write.serial || cell.atomics.stamps[0].serial;
        uninitialised = uninitialised || (kind != Access::write && !region.initialised && !written);
        const char* found = nullptr;
        if (const Stamp* s = find_conflict(cell, kind, found); s && !(same_value && is_benign(cell, *s)) && !other) {
            conflict = *s;
            other = &conflict;
            what = found;
        }
        if (kind == Access::write)
            cell.write = mine;
        if (kind == Access::read)
            cell.reads.add(mine);
        if (kind == Access::atomic)
            cell.atomics.add(mine);
    });
    if (other)
        report_race(kind, what, conflict, address, bytes, where);
    if (uninitialised && !other)
        report_uninitialised(kind, address, bytes, where);
}

} // namespace

void access(Access kind, const void* address, std::size_t bytes, Where where, const void* value) {
    if (!current || !bytes || !(options().check || options().count) || on_fiber_stack(address))
        return;
    const Region* region = find_region(address, bytes);
    Region unknown;
    if (!region) {
        if (!in_shared_arena(address) && is_exempt(address))
            return;
        if (!options().host_memory || in_shared_arena(address))
            fail(cudaErrorIllegalAddress,
                 "OUT OF BOUNDS " + name(kind) + " of " + std::to_string(bytes) + " bytes, " +
                     describe_address(address) + ",",
                 where);
        region = &unknown;
    }
    if (bytes <= 16 && reinterpret_cast<std::uintptr_t>(address) % (bytes & -bytes))
        fail(cudaErrorMisalignedAddress,
             "MISALIGNED " + name(kind) + " of " + std::to_string(bytes) + " bytes at " + describe_address(address) +
                 ",",
             where);
    if (options().preempt && random_number() % options().preempt == 0)
        yield();
    if (options().count)
        count_access(*region, kind != Access::read, address, bytes, where);
    if (options().check)
        check_cells(*region, kind, address, bytes, where, value && !std::memcmp(address, value, bytes));
}

void forget_cells(const void* address, std::size_t bytes) {
    std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(address), end = begin + bytes;
    for (auto it = pages.begin(); it != pages.end();) {
        std::uintptr_t first = it->first * page_bytes;
        if (begin <= first && first + page_bytes <= end) {
            it = pages.erase(it);
            continue;
        }
        if (first < end && begin < first + page_bytes) {
            Page& page = it->second;
            for (std::size_t i = 0; i < page.cells.size(); ++i)
                if (std::uintptr_t at = first + i * page.grain; at + page.grain > begin && at < end)
                    page.cells[i] = Cell();
        }
        ++it;
    }
}

void mark_cells(const void* address, std::size_t bytes) {
    Stamp host;
    host.serial = host_serial;
    for_cells(reinterpret_cast<std::uintptr_t>(address), bytes, [&](Cell& cell) { cell.write = host; });
}

} // namespace simt
