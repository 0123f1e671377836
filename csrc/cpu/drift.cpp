// drift on the CPU: tiles of six points and a panel of others, whose distances stay in the first cache and become sums
// of exponentials or the weights of a product. Nothing of the size of all pairs is kept. Compiled once per instruction
// set.

#include "../math/drift.h"
#include "../math/elementary.h"
#include "gemm.h"
#include "scratch.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kFew = 16; // coordinates up to which differences are squared; beyond, they come from a product

// How far points of [begin, end) lie from a panel of others.
template <class T, class A> class Distances {
  public:
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>, width = kGemmWidth<A>;
    static constexpr A kFar = static_cast<A>(1e30); // from oneself, and from nobody: an exponential of 0

    template <class Problem>
    Distances(const Problem& p, int64_t begin, int64_t end)
        : x_(static_cast<const T*>(p.x)), x_stride_(p.x_stride), size_(p.size), begin_(begin), rows_(end - begin),
          own_(p.own), squares_(p.squares), scratch_(bytes(p.size, end - begin)) {
        y_ = scratch_.template take<A>(packed_size(rows_, size_));
        panel_ = scratch_.template take<A>(width * size_);
        tile_ = scratch_.template take<A>(kGemmRows * width);
        y_squares_ = scratch_.template take<A>(packed_size(rows_, 1));
        x_squares_ = scratch_.template take<A>(width);
        pack(static_cast<const T*>(p.y) + begin * p.y_stride, p.y_stride, 1, rows_, size_, y_);
        for (int64_t i = 0; i < packed_size(rows_, 1); ++i) {
            const A* const y = y_ + i / kGemmRows * kGemmRows * size_ + i % kGemmRows;
            y_squares_[i] = 0;
            for (int64_t d = 0; d < size_; ++d)
                y_squares_[i] += y[d * kGemmRows] * y[d * kGemmRows];
        }
    }

    // The panel of `count` others, at most `width`, from `first` on.
    void take(int64_t first, int64_t count) {
        first_ = first, count_ = count;
        for (int64_t d = 0; d < size_; ++d)
            for (int64_t j = 0; j < width; ++j)
                panel_[d * width + j] = j < count ? load<A>(x_[(first + j) * x_stride_ + d]) : A(0);
        for (int64_t j = 0; j < width; ++j)
            x_squares_[j] = 0;
        for (int64_t d = 0; d < size_; ++d)
            for (int64_t j = 0; j < width; ++j)
                x_squares_[j] += panel_[d * width + j] * panel_[d * width + j];
    }

    // (kGemmRows, width) of the points from begin + row on.
    const A* tile(int64_t row) {
        size_ > kFew ? squares<true>(row) : squares<false>(row);
        if (!squares_)
            for (int64_t i = 0; i < kGemmRows * width; ++i)
                tile_[i] = detail::root_of(tile_[i]);
        for (int64_t r = 0; r < kGemmRows; ++r) {
            const int64_t itself = begin_ + row + r + own_ - first_;
            if (itself >= 0 && itself < count_)
                tile_[r * width + itself] = kFar;
            for (int64_t j = count_; j < width; ++j)
                tile_[r * width + j] = kFar;
        }
        return tile_;
    }

    int64_t rows() const { return rows_; }
    int64_t rows_at(int64_t row) const { return rows_ - row < kGemmRows ? rows_ - row : kGemmRows; }

  private:
    static int64_t bytes(int64_t size, int64_t rows) {
        return static_cast<int64_t>(sizeof(A)) * (packed_size(rows, size + 1) + width * (size + 1 + kGemmRows)) +
               5 * 64;
    }

    template <bool Product> void squares(int64_t row) {
        Vec sum[kGemmRows][kTileVectors] = {};
        const A *y = y_ + row * size_, *panel = panel_;
        for (int64_t d = 0; d < size_; ++d, y += kGemmRows, panel += width)
            for (int v = 0; v < kTileVectors; ++v) {
                const Vec column = *reinterpret_cast<const Vec*>(panel + v * step);
                for (int r = 0; r < kGemmRows; ++r) {
                    const Vec apart = Product ? column : column - y[r];
                    sum[r][v] += Product ? apart * y[r] : apart * apart;
                }
            }
        for (int r = 0; r < kGemmRows; ++r)
            for (int v = 0; v < kTileVectors; ++v) {
                Vec found = sum[r][v];
                if (Product) {
                    found = y_squares_[row + r] + *reinterpret_cast<const Vec*>(x_squares_ + v * step) - A(2) * found;
                    found = found < A(0) ? Vec{} : found;
                }
                *reinterpret_cast<Vec*>(tile_ + r * width + v * step) = found;
            }
    }

    const T* const x_;
    const int64_t x_stride_, size_, begin_, rows_, own_;
    const bool squares_;
    int64_t first_ = 0, count_ = 0;
    Scratch scratch_;
    A *y_, *panel_, *tile_, *y_squares_, *x_squares_;
};

// What the lanes of a row have met: the least distance of each, its exponentials from there, and the sum of all.
template <class T, class A> void sums(const DriftSums& p, int64_t begin, int64_t end) {
    using D = Distances<T, A>;
    constexpr int64_t step = D::step, width = D::width;
    D distances(p, begin, end);
    const int64_t rows = end - begin, each = (p.count + 2) * step;
    Scratch scratch(static_cast<int64_t>(sizeof(A)) * rows * each + 64);
    A* const states = scratch.template take<A>(rows * each);
    for (int64_t i = 0; i < rows * each; ++i)
        states[i] = i % each < step ? D::kFar : A(0);
    for (int64_t first = 0; first < p.others; first += width) {
        distances.take(first, p.others - first < width ? p.others - first : width);
        for (int64_t row = 0; row < rows; row += kGemmRows) {
            const A* t = distances.tile(row);
            for (int64_t r = 0; r < distances.rows_at(row); ++r, t += width) {
                A *const least = states + (row + r) * each, *const total = least + step;
                alignas(64) A before[step];
                copy(least, before, step);
                for (int64_t v = 0; v < width; v += step)
#pragma omp simd
                    for (int64_t l = 0; l < step; ++l) {
                        least[l] = detail::smaller(t[v + l], least[l]);
                        total[l] += t[v + l] == D::kFar ? A(0) : t[v + l];
                    }
                for (int64_t k = 0; k < p.count; ++k) {
                    A* const sum = total + (k + 1) * step;
                    const A rate = static_cast<A>(p.rates[k]);
#pragma omp simd
                    for (int64_t l = 0; l < step; ++l)
                        sum[l] *= exp_flushed(rate * (before[l] - least[l]));
                    for (int64_t v = 0; v < width; v += step)
#pragma omp simd
                        for (int64_t l = 0; l < step; ++l)
                            sum[l] += t[v + l] == D::kFar ? A(0) : exp_flushed(rate * (t[v + l] - least[l]));
                }
            }
        }
    }
    for (int64_t row = 0; row < rows; ++row) {
        const A *const least = states + row * each, *const total = least + step;
        A nearest = D::kFar, whole = 0;
        for (int64_t l = 0; l < step; ++l) {
            nearest = nearest != nearest ? nearest : detail::smaller(least[l], nearest);
            whole += total[l];
        }
        static_cast<A*>(p.totals)[begin + row] = whole;
        for (int64_t k = 0; k < p.count; ++k) {
            const A rate = static_cast<A>(p.rates[k]), *const sum = total + (k + 1) * step;
            A all = 0;
            for (int64_t l = 0; l < step; ++l)
                all += sum[l] * exp_flushed(rate * (least[l] - nearest));
            static_cast<A*>(p.logs)[(begin + row) * p.count + k] =
                nearest == D::kFar ? A(0) : rate * nearest + log(all);
        }
    }
}

template <class T, class A> void forces(const Drift& p, int64_t begin, int64_t end) {
    using D = Distances<T, A>;
    constexpr int64_t width = D::width;
    D distances(p, begin, end);
    const int64_t rows = end - begin, padded = (rows + kGemmRows - 1) / kGemmRows * kGemmRows;
    // towards the data and away from the others: for each rate and row a sum of weights, and of weighted points
    const int64_t each = p.size + 1, side = p.count * padded * each;
    Scratch scratch(static_cast<int64_t>(sizeof(A)) * (2 * side + width * (kGemmRows + p.count + each)) + 5 * 64);
    A* const ends = scratch.template take<A>(2 * side);
    A* const weights = scratch.template take<A>(kGemmRows * width);
    A* const right = scratch.template take<A>(p.count * width);
    A* const points = scratch.template take<A>(width * each); // whose last coordinate is 1
    for (int64_t i = 0; i < 2 * side; ++i)
        ends[i] = A(0);
    for (int64_t first = 0; first < p.others;) {
        const int64_t until = first < p.data ? p.data : p.others, count = until - first < width ? until - first : width;
        A* const here = ends + (first < p.data ? 0 : side);
        distances.take(first, count);
        for (int64_t j = 0; j < count; ++j) {
            const T* const x = static_cast<const T*>(p.x) + (first + j) * p.x_stride;
            for (int64_t d = 0; d < p.size; ++d)
                points[j * each + d] = load<A>(x[d]);
            points[j * each + p.size] = A(1);
        }
        for (int64_t k = 0; k < p.count; ++k)
            for (int64_t j = 0; j < width; ++j)
                right[k * width + j] =
                    j < count ? static_cast<const A*>(p.right)[(first + j) * p.right_stride + k] : A(0);
        for (int64_t row = 0; row < rows; row += kGemmRows) {
            const A* const t = distances.tile(row);
            const int64_t some = distances.rows_at(row);
            for (int64_t k = 0; k < p.count; ++k) {
                const A rate = static_cast<A>(p.rates[k]);
                for (int64_t r = 0; r < some; ++r) {
                    const A left = static_cast<const A*>(p.left)[(begin + row + r) * p.left_stride + k];
#pragma omp simd
                    for (int64_t j = 0; j < width; ++j)
                        weights[r * width + j] =
                            t[r * width + j] == D::kFar
                                ? A(0)
                                : exp_flushed(rate * t[r * width + j] - left - right[k * width + j]);
                }
                gemm<true>(Rows<A>{weights, width}, points, each, here + (k * padded + row) * each, each, some, count,
                           each);
            }
        }
        first += count;
    }
    for (int64_t k = 0; k < p.count; ++k)
        for (int64_t row = 0; row < rows; ++row) {
            const A *const near = ends + (k * padded + row) * each, *const far = near + side;
            A* const force = static_cast<A*>(p.forces) + (k * p.rows + begin + row) * p.size;
            for (int64_t d = 0; d < p.size; ++d)
                force[d] = far[p.size] * near[d] - near[p.size] * far[d];
        }
}

} // namespace

namespace PFK_ISA {

void drift_sums(const DriftSums& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        sums<decltype(in_memory), decltype(arithmetic)>(p, begin, end);
    });
}

void drift(const Drift& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        forces<decltype(in_memory), decltype(arithmetic)>(p, begin, end);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
