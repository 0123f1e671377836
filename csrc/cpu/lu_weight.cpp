// lu_weight on the CPU, in double: every step adds multiples of rows to a row, a block of columns in registers.

#include "kernels.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

// target[0..n) = sum over k in [first, last) of coefficient(k) * rows[k * ld + 0..n)
template <class R, class Coefficient, class Done>
void combine(const R* rows, int64_t ld, int64_t first, int64_t last, int64_t n, Coefficient coefficient, Done done) {
    constexpr int64_t width = 2 * kLanes;
    int64_t j = 0;
    for (; j + width <= n; j += width) {
        double sum[width] = {};
        for (int64_t k = first; k < last; ++k) {
            const double c = coefficient(k);
            const R* row = rows + k * ld + j;
            for (int64_t l = 0; l < width; ++l)
                sum[l] += c * static_cast<double>(row[l]);
        }
        for (int64_t l = 0; l < width; ++l)
            done(j + l, sum[l]);
    }
    for (; j < n; ++j) {
        double sum = 0;
        for (int64_t k = first; k < last; ++k)
            sum += coefficient(k) * static_cast<double>(rows[k * ld + j]);
        done(j, sum);
    }
}

// One matrix of the batch. T: of lu; A: of everything else.
template <class T> struct Factors {
    int64_t size;
    const T* lu;
    const int64_t* signs;

    double entry(int64_t i, int64_t j) const { return widened(lu[i * size + j]); }
    double log_pivot(int64_t i) const { return entry(i, i); }
    double pivot(int64_t i) const { return pivot_of(log_pivot(i), signs[i]); }
    double lower(int64_t i, int64_t j) const { return i == j ? 1.0 : entry(i, j); }      // j <= i
    double upper(int64_t i, int64_t j) const { return i == j ? pivot(i) : entry(i, j); } // j >= i

    static double widened(const double& value) { return value; }
    template <class U> static double widened(const U& value) { return static_cast<double>(load<float>(value)); }
};

template <class T, class A> void forward(const LuWeight& p, int64_t begin, int64_t end) {
    const int64_t n = p.size;
    for (int64_t row = begin; row < end; ++row) {
        const Factors<T> f{n, static_cast<const T*>(p.lu) + row * p.lu_stride, p.signs + row * n};
        const int64_t* permutation = p.permutation + row * n;
        A* weight = static_cast<A*>(p.weight) + row * n * n;
        A* terms = static_cast<A*>(p.terms) + row * n;
        double* work = p.scratch + row * n * n;
        for (int64_t i = 0; i < n; ++i)
            terms[i] = static_cast<A>(p.inverse ? -f.log_pivot(i) : f.log_pivot(i));
        if (!p.inverse) {
            for (int64_t i = 0; i < n; ++i)
                for (int64_t j = 0; j < n; ++j)
                    work[i * n + j] = j < i ? 0.0 : f.upper(i, j);
            for (int64_t i = 0; i < n; ++i) {
                const int64_t r = permutation[i];
                combine(
                    work, n, 0, r + 1, n, [&](int64_t k) { return f.lower(r, k); },
                    [&](int64_t j, double sum) { weight[i * n + j] = static_cast<A>(sum); });
            }
            continue;
        }
        for (int64_t i = 0; i < n; ++i) { // L^-1, row by row from the identity
            double* target = work + i * n;
            combine(
                work, n, 0, i, i, [&](int64_t k) { return f.lower(i, k); },
                [&](int64_t j, double sum) { target[j] = -sum; });
            for (int64_t j = i; j < n; ++j)
                target[j] = j == i ? 1.0 : 0.0;
        }
        for (int64_t i = n - 1; i >= 0; --i) { // U^-1 of that, from below
            double* target = work + i * n;
            const double pivot = f.pivot(i);
            combine(
                work, n, i + 1, n, n, [&](int64_t k) { return f.upper(i, k); },
                [&](int64_t j, double sum) { target[j] = (target[j] - sum) / pivot; });
        }
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < n; ++j)
                weight[i * n + j] = static_cast<A>(work[i * n + permutation[j]]);
    }
}

template <class T> void put(T& target, double value) { store(target, static_cast<float>(value)); }
template <> void put<double>(double& target, double value) { target = value; }

// W = P T, T = L U: dL = dT U^T, dU = L^T dT.
template <class T, class A, class Write>
void backward_of_product(const Factors<T>& f, const int64_t* permutation, const A* dweight, double* work, Write write) {
    const int64_t n = f.size;
    double *transposed = work, *gradient = work + n * n; // U^T and dT
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            transposed[j * n + i] = j < i ? 0.0 : f.upper(i, j);
            gradient[i * n + j] = 0.0;
        }
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
            gradient[permutation[i] * n + j] += static_cast<double>(dweight[i * n + j]);
    for (int64_t i = 0; i < n; ++i) {
        combine(
            transposed, n, 0, n, i, [&](int64_t k) { return gradient[i * n + k]; },
            [&](int64_t j, double sum) { write(i, j, sum); });
        combine(
            gradient + i, n, i, n, n - i, [&](int64_t k) { return f.lower(k, i); },
            [&](int64_t j, double sum) { write(i, i + j, sum); });
    }
}

// V = U^-1 L^-1 P^T; with dY = U^-T dV and Y = U V: dU = -dY V^T, dL = -(L^-T dY) Y^T. P only orders the columns, over
// which every product sums, so it plays no part.
template <class T, class A, class Write>
void backward_of_inverse(const Factors<T>& f, const A* weight, const A* dweight, double* work, Write write) {
    const int64_t n = f.size;
    double *dy = work, *transposed = work + n * n; // V^T, then Y^T
    for (int64_t i = 0; i < n; ++i) {
        double* target = dy + i * n;
        const double pivot = f.pivot(i);
        combine(
            dy, n, 0, i, n, [&](int64_t k) { return f.upper(k, i); },
            [&](int64_t j, double sum) { target[j] = (static_cast<double>(dweight[i * n + j]) - sum) / pivot; });
        for (int64_t j = 0; j < n; ++j)
            transposed[j * n + i] = static_cast<double>(weight[i * n + j]);
    }
    for (int64_t i = 0; i < n; ++i)
        combine(
            transposed + i, n, 0, n, n - i, [&](int64_t k) { return dy[i * n + k]; },
            [&](int64_t j, double sum) { write(i, i + j, -sum); });
    for (int64_t i = 0; i < n; ++i)
        combine(
            weight, n, i, n, n, [&](int64_t k) { return f.upper(i, k); },
            [&](int64_t j, double sum) { transposed[j * n + i] = sum; });
    for (int64_t i = n - 1; i >= 0; --i) {
        double* target = dy + i * n;
        combine(
            dy, n, i + 1, n, n, [&](int64_t k) { return f.lower(k, i); },
            [&](int64_t j, double sum) { target[j] -= sum; });
    }
    for (int64_t i = 0; i < n; ++i)
        combine(
            transposed, n, 0, n, i, [&](int64_t k) { return dy[i * n + k]; },
            [&](int64_t j, double sum) { write(i, j, -sum); });
}

template <class T, class A> void backward(const LuWeightBackward& p, int64_t begin, int64_t end) {
    const int64_t n = p.size;
    for (int64_t row = begin; row < end; ++row) {
        const Factors<T> f{n, static_cast<const T*>(p.lu) + row * p.lu_stride, p.signs + row * n};
        const A* weight = static_cast<const A*>(p.weight) + row * p.weight_stride;
        const A* dweight = static_cast<const A*>(p.dweight) + row * p.dweight_stride;
        const A* dterms = static_cast<const A*>(p.dterms) + row * p.dterms_stride;
        T* dlu = static_cast<T*>(p.dlu) + row * n * n;
        double* work = p.scratch + row * 3 * n * n;
        const auto write = [&](int64_t i, int64_t j, double value) { // the gradient by L, by U, and by the pivots
            const double term = p.inverse ? -static_cast<double>(dterms[i]) : static_cast<double>(dterms[i]);
            put(dlu[i * n + j], i == j ? value * f.pivot(i) + term : value);
        };
        if (p.inverse)
            backward_of_inverse(f, weight, dweight, work, write);
        else
            backward_of_product(f, p.permutation + row * n, dweight, work, write);
    }
}

} // namespace

namespace PFK_ISA {

void lu_weight(const LuWeight& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto lu, auto other) { forward<decltype(lu), decltype(other)>(p, begin, end); });
}

void lu_weight_backward(const LuWeightBackward& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto lu, auto other) { backward<decltype(lu), decltype(other)>(p, begin, end); });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
