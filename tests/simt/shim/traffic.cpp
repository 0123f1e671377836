// Counts what a warp-wide access costs: 32-byte sectors of global memory, bank wavefronts of shared memory.
#include "core.h"
#include "state.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace simt {
namespace {

struct Group { // one execution of one instruction by one warp
    struct {
        std::uintptr_t address = 0;
        std::size_t bytes = 0;
    } lanes[32];
};
struct Key {
    std::uint64_t where;
    unsigned warp, execution;
    bool operator<(const Key& o) const {
        return std::tie(where, warp, execution) < std::tie(o.where, o.warp, o.execution);
    }
};
struct Instruction { // within the running block
    bool shared, write;
    std::string array;
};
std::map<Key, Group> groups;
std::map<std::pair<std::uint64_t, unsigned>, unsigned> executions; // by place and thread
std::map<std::uint64_t, Instruction> instructions;
std::map<std::uint64_t, Traffic> totals;

void add_sectors(const Group& group, Traffic& total) {
    std::set<std::uintptr_t> sectors, distinct_bytes;
    for (auto [address, bytes] : group.lanes)
        for (std::size_t i = 0; i < bytes; ++i) {
            sectors.insert((address + i) / 32);
            distinct_bytes.insert(address + i);
        }
    total.units += sectors.size();
    total.minimum += (distinct_bytes.size() + 31) / 32;
}

// 8-byte accesses go by half-warps, 16-byte ones by quarters; within a part every bank serves one word a wavefront.
void add_wavefronts(const Group& group, Traffic& total) {
    std::size_t width = 4;
    for (const auto& lane : group.lanes)
        width = std::max(width, lane.bytes);
    std::size_t part = std::max<std::size_t>(32 / (width / 4), 1);
    for (std::size_t first = 0; first < 32; first += part) {
        std::set<std::uintptr_t> banks[32], all;
        for (std::size_t i = first; i < first + part; ++i)
            for (std::uintptr_t word = group.lanes[i].address / 4; // empty for a lane that takes no part
                 word * 4 < group.lanes[i].address + group.lanes[i].bytes; ++word) {
                banks[word % 32].insert(word);
                all.insert(word);
            }
        std::size_t worst = 0;
        for (const auto& bank : banks)
            worst = std::max(worst, bank.size());
        total.units += worst;
        total.minimum += (all.size() + 31) / 32;
    }
}

} // namespace

void count_access(const Region& region, bool write, const void* address, std::size_t bytes, Where where) {
    unsigned n = executions[{where.bits, current->number}]++;
    instructions[where.bits] = {region.shared, write, region.name};
    groups[{where.bits, current->number / 32, n}].lanes[lane()] = {reinterpret_cast<std::uintptr_t>(address), bytes};
}

void flush_counters(Counters& launch) {
    for (const auto& [key, group] : groups) {
        const Instruction& instruction = instructions[key.where];
        Where where;
        where.bits = key.where;
        Traffic& total = totals
                             .try_emplace(key.where, Traffic{where, instruction.array, instruction.shared,
                                                             instruction.write, 0, 0, 0})
                             .first->second;
        const std::uint64_t before = total.units;
        ++total.requests;
        if (instruction.shared)
            add_wavefronts(group, total);
        else
            add_sectors(group, total);
        ++launch.requests[instruction.shared][instruction.write];
        launch.units[instruction.shared][instruction.write] += total.units - before;
    }
    groups.clear();
    executions.clear();
    instructions.clear();
}

std::vector<Traffic> traffic() {
    std::vector<Traffic> rows;
    for (const auto& entry : totals)
        rows.push_back(entry.second);
    return rows;
}

void clear_traffic() {
    groups.clear();
    executions.clear();
    instructions.clear();
    totals.clear();
}

} // namespace simt
