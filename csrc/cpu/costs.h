// Where the costs of an assignment come from: a row of them at a time, a register of columns at a time. Rows are padded
// to a multiple of kWideRow with costs of infinity.
#pragma once

#include "scratch.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kWideRow = 64, kTogether = 4; // rows that are made together where columns are dear to read
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
    static constexpr bool kBounded = false;
    static constexpr double kLastStep = 0.05; // of an auction, beside how far a list of columns reaches
    static constexpr int64_t steps(int64_t) { return 2; }
    int64_t size, ld;
    const double* costs;

    CostRow row(int64_t i) const { return {costs + i * ld}; }
    double entry(int64_t i, int64_t j) const { return costs[i * ld + j]; }

    // Of some rows and the same columns.
    static int64_t sample_bytes(const DenseCosts&, int64_t count) { return count * padded(count) * 8 + 64; }
    DenseCosts sample(const int64_t* picked, int64_t count, Scratch& scratch) const {
        const int64_t width = padded(count);
        double* const some = scratch.take<double>(count * width);
        for (int64_t i = 0; i < count; ++i)
            for (int64_t j = 0; j < width; ++j)
                some[i * width + j] = j < count ? costs[picked[i] * ld + picked[j]] : kInfinity;
        return {count, width, some};
    }
};

// Squared distances in the plane: made again wherever they are wanted, which is cheaper than to read them.
struct PlaneCosts {
    static constexpr bool kBounded = false;
    static constexpr double kLastStep = 0.11;
    static constexpr int64_t steps(int64_t size) { return size > 2048 ? 4 : 3; }
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

    static int64_t sample_bytes(const PlaneCosts&, int64_t count) { return (count + padded(count)) * 16 + 128; }
    PlaneCosts sample(const int64_t* picked, int64_t count, Scratch& scratch) const {
        const int64_t width = padded(count);
        double *some_x = scratch.take<double>(count * 2), *some_y = scratch.take<double>(width * 2);
        for (int64_t d = 0; d < 2; ++d)
            for (int64_t i = 0; i < width; ++i) {
                some_y[d * width + i] = i < count ? y[d * ld + picked[i]] : kInfinity;
                if (i < count)
                    some_x[2 * i + d] = x[2 * picked[i] + d];
            }
        return {count, width, some_x, some_y};
    }
};

// Squared distances of points with any number of coordinates, of which T holds every bit; a row of them is made when it
// is asked for, in `made`. Half as much is read, and twice as much done at a time, where lower bounds in float do.
template <class T> struct SpaceCosts {
    static constexpr bool kBounded = sizeof(T) == sizeof(float);
    static constexpr double kLastStep = 0.017;
    static constexpr int64_t steps(int64_t) { return 2; }
    int64_t size, ld, dims;
    const double *x, *y; // (size, dims)
    const T *from, *to;  // x again; y in panels of kWideRow columns, (dims, kWideRow) each
    double* made;        // (ld,)

    CostRow row(int64_t i) const {
        fill<1>(&i, made);
        return {made};
    }

    // The rows of costs of `Rows` rows.
    template <int64_t Rows> void fill(const int64_t* rows, double* out) const {
        sum_squares<Rows, double>(
            rows, [&](int64_t r, int64_t j, const Doubles& sums) { doubles_at(out + r * ld + j) = sums; });
    }

    // All rows of costs, in (size, ld).
    DenseCosts whole(double* costs) const {
        int64_t rows[kTogether], i = 0;
        for (; i + kTogether <= size; i += kTogether) {
            for (int64_t r = 0; r < kTogether; ++r)
                rows[r] = i + r;
            fill<kTogether>(rows, costs + i * ld);
        }
        for (; i < size; ++i)
            fill<1>(&i, costs + i * ld);
        return {size, ld, costs};
    }

    // The same from float: no larger, and smaller by rounding alone.
    template <int64_t Rows> void bounds(const int64_t* rows, double* out) const {
        const double count = static_cast<double>(dims + 5), kept = 1 - count * 0x1p-24, lost = count * 0x1p-125;
        sum_squares<Rows, float>(rows, [&](int64_t r, int64_t j, const Floats& sums) {
            for (int64_t l = 0; l < RegisterOf<float>::lanes; ++l)
                out[r * ld + j + l] = static_cast<double>(sums[l] < 3e38f ? sums[l] : 3e38f) * kept - lost;
        });
    }

    double entry(int64_t i, int64_t j) const {
        double sum = 0;
        for (int64_t d = 0; d < dims; ++d) {
            const double difference = y[j * dims + d] - x[i * dims + d];
            sum += difference * difference;
        }
        return sum;
    }

    static int64_t bytes(int64_t dims, int64_t count) {
        const int64_t kept = dims * (count + padded(count)) * static_cast<int64_t>(sizeof(T));
        return dims * 2 * count * 8 + kept + padded(count) * 8 + 64 * 6;
    }
    static int64_t sample_bytes(const SpaceCosts& all, int64_t count) { return bytes(all.dims, count); }
    SpaceCosts sample(const int64_t* picked, int64_t count, Scratch& scratch) const {
        double *some_x = scratch.take<double>(count * dims), *some_y = scratch.take<double>(count * dims);
        for (int64_t i = 0; i < count; ++i) {
            copy(x + picked[i] * dims, some_x + i * dims, dims);
            copy(y + picked[i] * dims, some_y + i * dims, dims);
        }
        return of(count, dims, some_x, some_y, scratch);
    }
    static SpaceCosts of(int64_t size, int64_t dims, const double* x, const double* y, Scratch& scratch) {
        const int64_t ld = padded(size);
        T *const from = scratch.take<T>(dims * size), *const to = scratch.take<T>(dims * ld);
        for (int64_t i = 0; i < dims * size; ++i)
            from[i] = static_cast<T>(x[i]);
        for (int64_t j = 0; j < ld; ++j)
            for (int64_t d = 0; d < dims; ++d)
                to[(j / kWideRow * dims + d) * kWideRow + j % kWideRow] =
                    static_cast<T>(j < size ? y[j * dims + d] : kInfinity);
        return {size, ld, dims, x, y, from, to, scratch.take<double>(ld)};
    }

  private:
    using Floats = RegisterOf<float>::Type;

    // Calls give(which row, column, sums) for registers of the squared distances of some rows, summed in A.
    template <int64_t Rows, class A, class Give> void sum_squares(const int64_t* rows, Give give) const {
        using Sums = typename RegisterOf<A>::Type;
        typedef T Kept __attribute__((vector_size(sizeof(T) * RegisterOf<A>::lanes), aligned(sizeof(T)), may_alias));
        constexpr int64_t lanes = RegisterOf<A>::lanes, parts = Rows == 1 || kRegister == 64 ? 4 : 2;
        for (int64_t j = 0; j < ld; j += parts * lanes) {
            const T* const panel = to + j / kWideRow * kWideRow * dims + j % kWideRow;
            Sums sums[Rows][parts] = {};
            for (int64_t d = 0; d < dims; ++d) {
                Sums ends[parts];
                for (int64_t part = 0; part < parts; ++part)
                    ends[part] = __builtin_convertvector(
                        *reinterpret_cast<const Kept*>(panel + d * kWideRow + part * lanes), Sums);
                for (int64_t r = 0; r < Rows; ++r)
                    for (int64_t part = 0; part < parts; ++part) {
                        const Sums difference = ends[part] - static_cast<A>(from[rows[r] * dims + d]);
                        sums[r][part] += difference * difference;
                    }
            }
            for (int64_t r = 0; r < Rows; ++r)
                for (int64_t part = 0; part < parts; ++part)
                    give(r, j + part * lanes, sums[r][part]);
        }
    }
};

} // namespace
} // namespace pfk::cpu
