// Atomics: one operating-system thread runs everything, so a plain read-modify-write is atomic.
#include "core.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace simt {
namespace {

template <class T> T combine(Atomic op, T old, T operand, T compare) {
    switch (op) {
    case Atomic::add:
        return old + operand;
    case Atomic::min:
        return std::min(old, operand);
    case Atomic::max:
        return std::max(old, operand);
    case Atomic::exchange:
        return operand;
    case Atomic::compare_exchange:
        return old == compare ? operand : old;
    default:
        break;
    }
    if constexpr (std::is_integral_v<T>) {
        if (op == Atomic::bit_and)
            return old & operand;
        if (op == Atomic::bit_or)
            return old | operand;
        if (op == Atomic::bit_xor)
            return old ^ operand;
    }
    return old;
}

template <class T>
std::uint64_t update(Atomic op, void* address, std::uint64_t operand, std::uint64_t compare, Where where) {
    access(Access::atomic, address, sizeof(T), where);
    T old, a, b;
    std::memcpy(&old, address, sizeof(T));
    std::memcpy(&a, &operand, sizeof(T));
    std::memcpy(&b, &compare, sizeof(T));
    T result = combine(op, old, a, b);
    std::memcpy(address, &result, sizeof(T));
    std::uint64_t bits = 0;
    std::memcpy(&bits, &old, sizeof(T));
    return bits;
}

} // namespace

std::uint64_t atomic(Atomic op, Scalar type, void* address, std::uint64_t operand, std::uint64_t compare, Where where) {
    switch (type) {
    case Scalar::u32:
        return update<std::uint32_t>(op, address, operand, compare, where);
    case Scalar::s32:
        return update<std::int32_t>(op, address, operand, compare, where);
    case Scalar::u64:
        return update<std::uint64_t>(op, address, operand, compare, where);
    case Scalar::s64:
        return update<std::int64_t>(op, address, operand, compare, where);
    case Scalar::f32:
        return update<float>(op, address, operand, compare, where);
    case Scalar::f64:
        return update<double>(op, address, operand, compare, where);
    }
    return 0;
}

} // namespace simt
