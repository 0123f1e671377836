// Where the costs of an assignment come from: a row of them at a time, a register of columns at a time. Rows are padded
// to a multiple of kWideRow with costs of infinity.
#pragma once

#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kWideRow = 64;
constexpr double kInfinity = __builtin_inf();

using Doubles = RegisterOf<double>::Type;
typedef int64_t Ints __attribute__((vector_size(kRegister), aligned(8), may_alias));
constexpr int64_t kDoubles = RegisterOf<double>::lanes;

inline Doubles& doubles_at(double* at) { return *reinterpret_cast<Doubles*>(at); }
inline const Doubles& doubles_at(const double* at) { return *reinterpret_cast<const Doubles*>(at); }
inline Ints& ints_at(int64_t* at) { return *reinterpret_cast<Ints*>(at); }
inline Doubles all_of(double value) { return value - Doubles{}; }
inline Ints all_of(int64_t value) { return value - Ints{}; }

constexpr int64_t padded(int64_t size) { return (size + kWideRow - 1) / kWideRow * kWideRow; }

struct CostRow {
    const double* costs;
    Doubles at(int64_t j) const { return doubles_at(costs + j); }
};

// Costs that lie there as they are wanted.
struct DenseCosts {
    int64_t size, ld;
    const double* costs;

    CostRow row(int64_t i) const { return {costs + i * ld}; }
    double entry(int64_t i, int64_t j) const { return costs[i * ld + j]; }
};

// Squared distances in the plane: made again wherever they are wanted, which is cheaper than to read them.
struct PlaneCosts {
    int64_t size, ld;
    const double* x; // (size, 2)
    const double* y; // (2, ld)

    struct Row {
        double a, b;
        const double *first, *second;
        Doubles at(int64_t j) const {
            const Doubles p = doubles_at(first + j) - a, q = doubles_at(second + j) - b;
            return p * p + q * q;
        }
    };
    Row row(int64_t i) const { return {x[2 * i], x[2 * i + 1], y, y + ld}; }
    double entry(int64_t i, int64_t j) const {
        const double p = y[j] - x[2 * i], q = y[ld + j] - x[2 * i + 1];
        return p * p + q * q;
    }
};

// Squared distances of points with any number of coordinates; a row of them is made when it is asked for, in `made`.
struct SpaceCosts {
    int64_t size, ld, dims;
    const double* x; // (size, dims)
    const double* y; // (dims, ld)
    double* made;    // (ld,)

    CostRow row(int64_t i) const {
        fill(i, made);
        return {made};
    }
    void fill(int64_t i, double* out) const {
        constexpr int64_t parts = 8;
        for (int64_t j = 0; j < ld; j += parts * kDoubles) {
            Doubles sum[parts] = {};
            for (int64_t d = 0; d < dims; ++d)
                for (int64_t part = 0; part < parts; ++part) {
                    const Doubles difference = doubles_at(y + d * ld + j + part * kDoubles) - x[i * dims + d];
                    sum[part] += difference * difference;
                }
            for (int64_t part = 0; part < parts; ++part)
                doubles_at(out + j + part * kDoubles) = sum[part];
        }
    }
    double entry(int64_t i, int64_t j) const {
        double sum = 0;
        for (int64_t d = 0; d < dims; ++d) {
            const double difference = y[d * ld + j] - x[i * dims + d];
            sum += difference * difference;
        }
        return sum;
    }
};

} // namespace
} // namespace pfk::cpu
