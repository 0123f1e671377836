// lu_weight on the CPU, in double: products by the micro-kernel, triangular solves in blocks of rows, of which only the
// square on the diagonal is solved row by row.

#include "../math/lu_weight.h"
#include "gemm.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kBlock = 24, kDepth = 128; // rows and depth of what is packed at a time

// y[r][0..n) (+)= sum over k in [first, last) of coefficient(row + r, k) * x[k][0..n), for `rows` <= kBlock rows; x and
// y have ld columns.
template <bool Add, class Coefficient>
void product(Coefficient coefficient, int64_t row, int64_t rows, int64_t first, int64_t last, const double* x,
             double* y, int64_t ld, int64_t n) {
    alignas(64) double packed[packed_size(kBlock, kDepth)];
    for (int64_t from = first; from < last; from += kDepth) {
        const int64_t depth = last - from < kDepth ? last - from : kDepth;
        for (int64_t block = 0; block < rows; block += kGemmRows)
            for (int64_t r = 0; r < kGemmRows; ++r)
                for (int64_t k = 0; k < depth; ++k)
                    packed[block * depth + k * kGemmRows + r] =
                        block + r < rows ? coefficient(row + block + r, from + k) : 0.0;
        Add || from > first ? gemm<true>(packed, x + from * ld, ld, y, ld, rows, depth, n)
                            : gemm<false>(packed, x + from * ld, ld, y, ld, rows, depth, n);
    }
}

// target[0..n) -= sum over k in [first, last) of coefficient(k) * x[k][0..n)
template <class Coefficient>
void subtract(const double* x, int64_t ld, int64_t first, int64_t last, double* target, int64_t n,
              Coefficient coefficient) {
    using Vec = typename Vector<double>::Type;
    constexpr int64_t lanes = kGemmVector<double>, wide = 4;
    int64_t j = 0;
    for (; j + wide * lanes <= n; j += wide * lanes) {
        Vec sum[wide];
        for (int64_t v = 0; v < wide; ++v)
            sum[v] = *reinterpret_cast<const Vec*>(target + j + v * lanes);
        for (int64_t k = first; k < last; ++k) {
            const double c = coefficient(k);
            for (int64_t v = 0; v < wide; ++v)
                sum[v] -= c * *reinterpret_cast<const Vec*>(x + k * ld + j + v * lanes);
        }
        for (int64_t v = 0; v < wide; ++v)
            *reinterpret_cast<Vec*>(target + j + v * lanes) = sum[v];
    }
    for (; j < n; ++j) {
        double sum = target[j];
        for (int64_t k = first; k < last; ++k)
            sum -= coefficient(k) * x[k * ld + j];
        target[j] = sum;
    }
}

// x becomes C^-1 x for a triangular C, in place: from above (C lower) or from below (C upper). coefficient(i, k) is C
// off its diagonal, pivot(i) on it. x is (n, n).
template <bool Down, class Coefficient, class Pivot>
void solve(Coefficient coefficient, Pivot pivot, double* x, int64_t n) {
    const auto negative = [&](int64_t i, int64_t k) { return -coefficient(i, k); };
    for (int64_t done = 0; done < n; done += kBlock) {
        const int64_t rows = n - done < kBlock ? n - done : kBlock, top = Down ? done : n - done - rows;
        Down ? product<true>(negative, top, rows, 0, top, x, x + top * n, n, n)
             : product<true>(negative, top, rows, top + rows, n, x, x + top * n, n, n);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t i = Down ? top + r : top + rows - 1 - r;
            subtract(x, n, Down ? top : i + 1, Down ? i : top + rows, x + i * n, n,
                     [&](int64_t k) { return coefficient(i, k); });
            const double p = pivot(i);
            for (int64_t j = 0; j < n; ++j)
                x[i * n + j] /= p;
        }
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
        double *work = p.scratch + row * 2 * n * n, *whole = work + n * n;
        for (int64_t i = 0; i < n; ++i)
            terms[i] = static_cast<A>(p.inverse ? -f.log_pivot(i) : f.log_pivot(i));
        if (!p.inverse) {
            for (int64_t i = 0; i < n; ++i)
                for (int64_t j = 0; j < n; ++j)
                    work[i * n + j] = j < i ? 0.0 : f.upper(i, j);
            for (int64_t top = 0; top < n; top += kBlock) {
                const int64_t rows = n - top < kBlock ? n - top : kBlock;
                product<false>([&](int64_t i, int64_t k) { return k > i ? 0.0 : f.lower(i, k); }, top, rows, 0,
                               top + rows, work, whole + top * n, n, n);
            }
            for (int64_t i = 0; i < n; ++i)
                for (int64_t j = 0; j < n; ++j)
                    weight[i * n + j] = static_cast<A>(whole[permutation[i] * n + j]);
            continue;
        }
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < n; ++j)
                work[i * n + j] = i == j ? 1.0 : 0.0;
        solve<true>([&](int64_t i, int64_t k) { return f.entry(i, k); }, [](int64_t) { return 1.0; }, work, n);
        solve<false>([&](int64_t i, int64_t k) { return f.entry(i, k); }, [&](int64_t i) { return f.pivot(i); }, work,
                     n);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < n; ++j)
                weight[i * n + j] = static_cast<A>(work[i * n + permutation[j]]);
    }
}

template <class T> void put(T& target, double value) { store(target, static_cast<float>(value)); }
template <> void put<double>(double& target, double value) { target = value; }

// Calls write(i, j, the element) for the triangle of a product: j < i, or j >= i with Upper. Y's rows are made block by
// block in `block`, kBlock * n long.
template <bool Upper, class Coefficient, class First, class Last, class Write>
void triangle(Coefficient coefficient, First first, Last last, const double* x, double* block, int64_t n, Write write) {
    for (int64_t top = 0; top < n; top += kBlock) {
        const int64_t rows = n - top < kBlock ? n - top : kBlock;
        const int64_t begin = Upper ? top : 0, end = Upper ? n : top + rows;
        product<false>(coefficient, top, rows, first(top), last(top + rows), x + begin, block, n, end - begin);
        for (int64_t i = top; i < top + rows; ++i)
            for (int64_t j = Upper ? i : 0; j < (Upper ? n : i); ++j)
                write(i, j, block[(i - top) * n + j - begin]);
    }
}

// W = P T, T = L U: dL = dT U^T, dU = L^T dT.
template <class T, class A, class Write>
void backward_of_product(const Factors<T>& f, const int64_t* permutation, const A* dweight, double* work, Write write) {
    const int64_t n = f.size;
    double *transposed = work, *gradient = work + n * n, *block = work + 2 * n * n; // U^T and dT
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            transposed[j * n + i] = j < i ? 0.0 : f.upper(i, j);
            gradient[i * n + j] = 0.0;
        }
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
            gradient[permutation[i] * n + j] += static_cast<double>(dweight[i * n + j]);
    const auto zero = [](int64_t) { return int64_t{0}; };
    const auto same = [](int64_t top) { return top; };
    const auto all = [&](int64_t) { return n; };
    triangle<false>([&](int64_t i, int64_t k) { return gradient[i * n + k]; }, zero, all, transposed, block, n, write);
    triangle<true>([&](int64_t i, int64_t k) { return k < i ? 0.0 : f.lower(k, i); }, same, all, gradient, block, n,
                   write);
}

// V = U^-1 L^-1 P^T; with dY = U^-T dV and Y = U V: dU = -dY V^T, dL = -(L^-T dY) Y^T. P only orders the columns, over
// which every product sums, so it plays no part.
template <class T, class A, class Write>
void backward_of_inverse(const Factors<T>& f, const A* weight, const A* dweight, double* work, Write write) {
    const int64_t n = f.size;
    double *dy = work, *v = dy + n * n, *transposed = v + n * n, *y = transposed + n * n; // V^T, then Y^T
    const auto negative = [&](int64_t i, int64_t k) { return -dy[i * n + k]; };
    const auto zero = [](int64_t) { return int64_t{0}; };
    const auto all = [&](int64_t) { return n; };
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
            dy[i * n + j] = static_cast<double>(dweight[i * n + j]);
            v[i * n + j] = transposed[j * n + i] = static_cast<double>(weight[i * n + j]);
        }
    solve<true>([&](int64_t i, int64_t k) { return f.entry(k, i); }, [&](int64_t i) { return f.pivot(i); }, dy, n);
    triangle<true>(negative, zero, all, transposed, y, n, write);
    for (int64_t top = 0; top < n; top += kBlock) {
        const int64_t rows = n - top < kBlock ? n - top : kBlock;
        product<false>([&](int64_t i, int64_t k) { return k < i ? 0.0 : f.upper(i, k); }, top, rows, top, n, v,
                       y + top * n, n, n);
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
            transposed[j * n + i] = y[i * n + j];
    solve<false>([&](int64_t i, int64_t k) { return f.entry(k, i); }, [](int64_t) { return 1.0; }, dy, n);
    triangle<false>(negative, zero, all, transposed, y, n, write);
}

template <class T, class A> void backward(const LuWeightBackward& p, int64_t begin, int64_t end) {
    const int64_t n = p.size;
    for (int64_t row = begin; row < end; ++row) {
        const Factors<T> f{n, static_cast<const T*>(p.lu) + row * p.lu_stride, p.signs + row * n};
        const A* weight = static_cast<const A*>(p.weight) + row * p.weight_stride;
        const A* dweight = static_cast<const A*>(p.dweight) + row * p.dweight_stride;
        const A* dterms = static_cast<const A*>(p.dterms) + row * p.dterms_stride;
        T* dlu = static_cast<T*>(p.dlu) + row * n * n;
        double* work = p.scratch + row * 4 * n * n;
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
