// lu_weight on the GPU, in double: a thread an element where elements stand alone, a thread a column where each element
// waits for the one before.

#include "../math/lu_weight.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 128;

// One matrix of the batch.
template <class T> struct Factors {
    int64_t size;
    const T* lu;
    const int64_t* signs;

    template <class Problem>
    PFK_DEVICE Factors(const Problem& p, int64_t row)
        : size(p.size), lu(static_cast<const T*>(p.lu) + row * p.lu_stride), signs(p.signs + row * p.size) {}

    PFK_DEVICE double entry(int64_t i, int64_t j) const { return static_cast<double>(widen(lu[i * size + j])); }
    PFK_DEVICE double pivot(int64_t i) const { return pivot_of(entry(i, i), signs[i]); }
};

PFK_DEVICE int64_t thread_number() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }

// An element of W: sum of L[r, k] U[k, j] over k up to the smaller of r and j.
template <class T> __global__ void __launch_bounds__(kThreads) product(const LuWeight p) {
    using A = arithmetic_t<T>;
    const int64_t n = p.size, at = thread_number(), row = at / (n * n), i = at / n % n, j = at % n;
    if (row >= p.rows)
        return;
    const Factors<T> f(p, row);
    const int64_t r = p.permutation[row * n + i], last = r < j ? r : j;
    double sum = 0;
    for (int64_t k = 0; k < last; ++k)
        sum += f.entry(r, k) * f.entry(k, j);
    if (r <= j)
        sum += r == j ? f.pivot(j) : f.entry(r, j);
    else
        sum += f.entry(r, j) * f.pivot(j);
    static_cast<A*>(p.weight)[at] = static_cast<A>(sum);
    if (i == j)
        static_cast<A*>(p.terms)[row * n + i] = static_cast<A>(f.entry(i, i));
}

// A column of W^-1 by two triangular solves.
template <class T> __global__ void __launch_bounds__(kThreads) inverse(const LuWeight p) {
    using A = arithmetic_t<T>;
    const int64_t n = p.size, at = thread_number(), row = at / n, j = at % n;
    if (row >= p.rows)
        return;
    const Factors<T> f(p, row);
    const int64_t column = p.permutation[row * n + j];
    double* const x = p.scratch + row * n * n + j; // every n-th
    for (int64_t i = 0; i < n; ++i) {
        double sum = i == column ? 1.0 : 0.0;
        for (int64_t k = column; k < i; ++k)
            sum -= f.entry(i, k) * x[k * n];
        x[i * n] = sum;
    }
    A* const weight = static_cast<A*>(p.weight) + row * n * n + j;
    for (int64_t i = n - 1; i >= 0; --i) {
        double sum = x[i * n];
        for (int64_t k = i + 1; k < n; ++k)
            sum -= f.entry(i, k) * x[k * n];
        sum /= f.pivot(i);
        x[i * n] = sum;
        weight[i * n] = static_cast<A>(sum);
    }
    static_cast<A*>(p.terms)[at] = static_cast<A>(-f.entry(j, j));
}

// The gradient by an entry of L or U, or by the logarithm of a pivot.
template <class T>
PFK_DEVICE void write(const LuWeightBackward& p, const Factors<T>& f, int64_t row, int64_t i, int64_t j, double value) {
    using A = arithmetic_t<T>;
    if (i == j) {
        const double term = static_cast<double>(static_cast<const A*>(p.dterms)[row * p.dterms_stride + i]);
        value = value * f.pivot(i) + (p.inverse ? -term : term);
    }
    static_cast<T*>(p.dlu)[(row * p.size + i) * p.size + j] = narrow<T>(static_cast<A>(value));
}

// dL = dT U^T below the diagonal, dU = L^T dT above, where row i of dW is row permutation[i] of dT.
template <class T> __global__ void __launch_bounds__(kThreads) backward_of_product(const LuWeightBackward p) {
    using A = arithmetic_t<T>;
    const int64_t n = p.size, at = thread_number(), row = at / (n * n), i = at / n % n, j = at % n;
    if (row >= p.rows)
        return;
    const Factors<T> f(p, row);
    const int64_t* const permutation = p.permutation + row * n;
    const A* const dweight = static_cast<const A*>(p.dweight) + row * p.dweight_stride;
    const int64_t r = permutation[i];
    double sum = 0;
    if (j < r) {
        sum = static_cast<double>(dweight[i * n + j]) * f.pivot(j);
        for (int64_t k = j + 1; k < n; ++k)
            sum += static_cast<double>(dweight[i * n + k]) * f.entry(j, k);
    } else
        for (int64_t k = 0; k < n; ++k) {
            const int64_t q = permutation[k];
            const double lower = q > r ? f.entry(q, r) : q == r ? 1.0 : 0.0;
            sum += lower * static_cast<double>(dweight[k * n + j]);
        }
    write(p, f, row, r, j, sum);
}

// Column by column: dY = U^-T dV, L^-T dY and Y = U V, each of size^2 in the scratch memory.
template <class T> __global__ void __launch_bounds__(kThreads) solve(const LuWeightBackward p) {
    using A = arithmetic_t<T>;
    const int64_t n = p.size, at = thread_number(), row = at / n, c = at % n;
    if (row >= p.rows)
        return;
    const Factors<T> f(p, row);
    const A* const weight = static_cast<const A*>(p.weight) + row * p.weight_stride + c;
    const A* const dweight = static_cast<const A*>(p.dweight) + row * p.dweight_stride + c;
    double* const dy = p.scratch + row * 3 * n * n + c;
    double *const solved = dy + n * n, *const y = solved + n * n;
    for (int64_t i = 0; i < n; ++i) {
        double sum = static_cast<double>(dweight[i * n]);
        for (int64_t k = 0; k < i; ++k)
            sum -= f.entry(k, i) * dy[k * n];
        dy[i * n] = sum / f.pivot(i);
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        double sum = dy[i * n], product = static_cast<double>(weight[i * n]) * f.pivot(i);
        for (int64_t k = i + 1; k < n; ++k) {
            sum -= f.entry(k, i) * solved[k * n];
            product += f.entry(i, k) * static_cast<double>(weight[k * n]);
        }
        solved[i * n] = sum;
        y[i * n] = product;
    }
}

template <class T> __global__ void __launch_bounds__(kThreads) backward_of_inverse(const LuWeightBackward p) {
    using A = arithmetic_t<T>;
    const int64_t n = p.size, at = thread_number(), row = at / (n * n), i = at / n % n, j = at % n;
    if (row >= p.rows)
        return;
    const double* const dy = p.scratch + row * 3 * n * n;
    const double *const solved = dy + n * n, *const y = solved + n * n;
    const A* const weight = static_cast<const A*>(p.weight) + row * p.weight_stride;
    double sum = 0;
    for (int64_t c = 0; c < n; ++c)
        sum -= j < i ? solved[i * n + c] * y[j * n + c] : dy[i * n + c] * static_cast<double>(weight[j * n + c]);
    write(p, Factors<T>(p, row), row, i, j, sum);
}

template <class Problem>
cudaError_t run(void (*kernel)(Problem), const Problem& p, int64_t threads, cudaStream_t stream) {
    return launch(kernel, static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0, stream, p);
}

} // namespace

Error lu_weight(const LuWeight& p, void* stream) {
    if (p.rows * p.size == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    return with_type(p.type, [&](auto type) {
        using T = typename decltype(type)::type;
        return p.inverse ? run(inverse<T>, p, p.rows * p.size, on) : run(product<T>, p, p.rows * p.size * p.size, on);
    });
}

Error lu_weight_backward(const LuWeightBackward& p, void* stream) {
    if (p.rows * p.size == 0)
        return cudaSuccess;
    const auto on = static_cast<cudaStream_t>(stream);
    const int64_t columns = p.rows * p.size;
    return with_type(p.type, [&](auto type) {
        using T = typename decltype(type)::type;
        if (!p.inverse)
            return run(backward_of_product<T>, p, columns * p.size, on);
        const cudaError_t error = run(solve<T>, p, columns, on);
        return error == cudaSuccess ? run(backward_of_inverse<T>, p, columns * p.size, on) : error;
    });
}

} // namespace pfk::cuda
