// Warp operations: the last lane of the mask to arrive computes every lane's result.
#include "core.h"
#include "state.h"

#include <algorithm>

namespace simt {
namespace {

constexpr std::uint64_t poison = ~0ull; // NaN in every floating-point type
constexpr cudaError_t misuse = cudaErrorLaunchFailure;

const char* name(WarpOperation operation) {
    constexpr const char* names[] = {"shuffle", "vote", "match", "reduce", "__syncwarp"};
    return names[static_cast<int>(operation)];
}

std::string hex(std::uint32_t mask) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%08x", mask);
    return text;
}

Thread* warp() { return threads + current->number / 32 * 32; }

std::uint32_t existing_lanes() { // the last warp may be partial
    unsigned rest = block.threads - current->number / 32 * 32;
    return rest >= 32 ? ~0u : (1u << rest) - 1;
}

template <class Function> void for_lanes(std::uint32_t mask, Function function) {
    for (; mask; mask &= mask - 1)
        function(static_cast<unsigned>(__builtin_ctz(mask)));
}

[[noreturn]] void diverge(const std::string& why) {
    const Thread& me = *current;
    fail(misuse, std::string("WARP DIVERGENCE: ") + name(me.operation) + " with mask " + hex(me.mask) + why, me.where);
}

// Waiting lanes that cannot both be satisfied are an error at once, not a deadlock later.
bool all_arrived() {
    const Thread& me = *current;
    bool complete = true;
    for_lanes(me.mask, [&](unsigned l) {
        const Thread& other = warp()[l];
        if (other.state == State::done)
            diverge(" names lane " + std::to_string(l) + ", which has exited,");
        if (other.state != State::in_warp_operation || !(other.mask >> lane() & 1u)) {
            complete = false;
            return;
        }
        if (other.operation != me.operation || other.detail != me.detail || other.mask != me.mask ||
            !(other.where == me.where))
            diverge(", but lane " + std::to_string(l) + " waits in " + name(other.operation) + " with mask " +
                    hex(other.mask) + " at " + describe(other.where) + ";");
    });
    return complete;
}

Shuffled shuffled_from(const Thread& t, unsigned own_lane) {
    unsigned segment = t.c >> 8 & 31u, clamp = t.c & 31u, b = t.b & 31u;
    unsigned first = own_lane & segment, last = first | (clamp & ~segment & 31u);
    int source = 0;
    bool in_range = false;
    switch (static_cast<Shuffle>(t.detail)) {
    case Shuffle::up:
        source = static_cast<int>(own_lane) - static_cast<int>(b);
        in_range = source >= static_cast<int>(last);
        break;
    case Shuffle::down:
        source = static_cast<int>(own_lane + b);
        break;
    case Shuffle::bfly:
        source = static_cast<int>(own_lane ^ b);
        break;
    case Shuffle::idx:
        source = static_cast<int>(first | (b & ~segment));
        break;
    }
    if (static_cast<Shuffle>(t.detail) != Shuffle::up)
        in_range = source <= static_cast<int>(last);
    if (!in_range)
        return {t.value, false};
    return {t.mask >> source & 1u ? warp()[source].value : poison, true};
}

std::uint32_t combine(Reduce op, std::uint32_t a, std::uint32_t b) {
    auto s = [](std::uint32_t v) { return static_cast<std::int32_t>(v); };
    switch (op) {
    case Reduce::add:
        return a + b;
    case Reduce::min_u32:
        return std::min(a, b);
    case Reduce::max_u32:
        return std::max(a, b);
    case Reduce::min_s32:
        return s(a) < s(b) ? a : b;
    case Reduce::max_s32:
        return s(a) < s(b) ? b : a;
    case Reduce::bit_and:
        return a & b;
    case Reduce::bit_or:
        return a | b;
    case Reduce::bit_xor:
        return a ^ b;
    }
    return 0;
}

void join_clocks(std::uint32_t mask) {
    std::array<std::uint32_t, 32> joined = {};
    for_lanes(mask, [&](unsigned l) {
        for (unsigned i = 0; i < 32; ++i)
            joined[i] = std::max(joined[i], warp()[l].clock[i]);
    });
    for_lanes(mask, [&](unsigned l) {
        warp()[l].clock = joined;
        ++warp()[l].clock[l];
    });
}

void finish() {
    const Thread me = *current;
    std::uint64_t result = 0;
    Shuffled results[32];
    if (me.operation == WarpOperation::shuffle)
        for_lanes(me.mask, [&](unsigned l) { results[l] = shuffled_from(warp()[l], l); });
    if (me.operation == WarpOperation::ballot)
        for_lanes(me.mask, [&](unsigned l) { result |= std::uint64_t{warp()[l].value != 0} << l; });
    if (me.operation == WarpOperation::match_any)
        for_lanes(me.mask, [&](unsigned l) {
            std::uint64_t equal = 0;
            for_lanes(me.mask, [&](unsigned k) { equal |= std::uint64_t{warp()[k].value == warp()[l].value} << k; });
            results[l] = {equal, true};
        });
    if (me.operation == WarpOperation::reduce) {
        std::uint32_t sum = static_cast<std::uint32_t>(me.value);
        for_lanes(me.mask & ~(1u << lane()), [&](unsigned l) {
            sum = combine(static_cast<Reduce>(me.detail), sum, static_cast<std::uint32_t>(warp()[l].value));
        });
        result = sum;
    }
    if (me.operation == WarpOperation::sync)
        join_clocks(me.mask);
    bool own_results = me.operation == WarpOperation::shuffle || me.operation == WarpOperation::match_any;
    for_lanes(me.mask, [&](unsigned l) {
        Thread& t = warp()[l];
        t.value = own_results ? results[l].value : result;
        t.flag = own_results && results[l].in_range;
        t.state = State::ready;
    });
}

Shuffled perform(WarpOperation operation, int detail, std::uint32_t mask, std::uint64_t value, std::uint32_t b,
                 std::uint32_t c, Where where) {
    Thread& me = *current;
    me.operation = operation;
    me.detail = detail;
    me.mask = mask & existing_lanes();
    me.value = value;
    me.b = b;
    me.c = c;
    me.where = where;
    if (!(mask >> lane() & 1u))
        fail(misuse,
             std::string("WARP DIVERGENCE: caller is not in the mask ") + hex(mask) + " of its " + name(operation),
             where);
    me.state = State::in_warp_operation;
    if (all_arrived())
        finish();
    else
        yield();
    return {me.value, me.flag};
}

} // namespace

Shuffled shuffle(Shuffle mode, std::uint32_t mask, std::uint64_t value, std::uint32_t b, std::uint32_t c, Where where) {
    return perform(WarpOperation::shuffle, static_cast<int>(mode), mask, value, b, c, where);
}

std::uint32_t ballot(std::uint32_t mask, bool predicate, Where where) {
    return static_cast<std::uint32_t>(perform(WarpOperation::ballot, 0, mask, predicate, 0, 0, where).value);
}

std::uint32_t match_any(std::uint32_t mask, std::uint64_t value, Where where) {
    return static_cast<std::uint32_t>(perform(WarpOperation::match_any, 0, mask, value, 0, 0, where).value);
}

std::uint32_t reduce(Reduce op, std::uint32_t mask, std::uint32_t value, Where where) {
    return static_cast<std::uint32_t>(
        perform(WarpOperation::reduce, static_cast<int>(op), mask, value, 0, 0, where).value);
}

void syncwarp(std::uint32_t mask, Where where) { perform(WarpOperation::sync, 0, mask, 0, 0, 0, where); }

} // namespace simt
