// drift on the CPU: blocks of points, and panels of others that stream by. Distances of six points from a panel stay in
// the first cache and become sums of exponentials, or the weights of a product. Nothing of the size of all pairs is
// kept. Compiled once per instruction set.

#include "../math/drift.h"
#include "../math/softmax.h"
#include "panels.h"
#include "scratch.h"
#include "sums.h"
#include "transpose.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kFew = 16;     // coordinates up to which differences are squared; beyond, they come from a product
constexpr int64_t kBlock = 48;   // points whose sums stay near while all others stream by
constexpr double kNobody = 1e30; // the distance from oneself, and from nobody: an exponential of 0

// How far the points of a block lie from a panel of others.
template <class T, class A> class Distances {
  public:
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>, width = kGemmWidth<A>;
    static constexpr A kFar = static_cast<A>(kNobody);

    template <class Problem>
    explicit Distances(const Problem& p, A* found = nullptr)
        : x_(static_cast<const T*>(p.x)), y_(static_cast<const T*>(p.y)), x_stride_(p.x_stride), y_stride_(p.y_stride),
          size_(p.size), own_(p.own), others_(p.others), squares_(p.squares), apart_(static_cast<const A*>(p.apart)),
          apart_stride_(p.apart_stride), turned_(p.turned), found_(found),
          scratch_(static_cast<int64_t>(sizeof(A)) *
                       (packed_size(kBlock, p.size + 1) + width * (p.size + 1 + kGemmRows + kBlock)) +
                   6 * 64) {
        packed_ = scratch_.template take<A>(packed_size(kBlock, size_));
        panel_ = scratch_.template take<A>(width * size_);
        tile_ = scratch_.template take<A>(kGemmRows * width);
        y_squares_ = scratch_.template take<A>(packed_size(kBlock, 1));
        x_squares_ = scratch_.template take<A>(width);
        block_ = scratch_.template take<A>(kBlock * width);
    }

    // The block of points from `begin` on.
    void enter(int64_t begin, int64_t rows) {
        begin_ = begin, rows_ = rows;
        if (apart_ != nullptr)
            return;
        pack(y_ + begin * y_stride_, y_stride_, 1, rows, size_, packed_);
        for (int64_t i = 0; i < packed_size(rows, 1); ++i) {
            const A* const y = packed_ + i / kGemmRows * kGemmRows * size_ + i % kGemmRows;
            y_squares_[i] = 0;
            for (int64_t d = 0; d < size_; ++d)
                y_squares_[i] += y[d * kGemmRows] * y[d * kGemmRows];
        }
    }

    // The panel of `count` others, at most `width`, from `first` on.
    void take(int64_t first, int64_t count) {
        first_ = first, count_ = count;
        if (turned_)
            transpose<A>(apart_ + first * apart_stride_ + begin_, apart_stride_, count, rows_, block_, width);
        if (apart_ != nullptr && size_ > kFew) // whose points are asked for elsewhere
            return;
        if (count < width)
            fill_zero(panel_, width * size_);
        transpose<A>(x_ + first * x_stride_, x_stride_, count, size_, panel_, width);
        fill_zero(x_squares_, width);
        for (int64_t d = 0; d < size_; ++d)
#pragma omp simd
            for (int64_t j = 0; j < width; ++j)
                x_squares_[j] += panel_[d * width + j] * panel_[d * width + j];
    }

    // (kGemmRows, width) of the points from row on.
    const A* tile(int64_t row) {
        const int64_t rows = rows_ - row < kGemmRows ? rows_ - row : kGemmRows;
        if (apart_ != nullptr)
            for (int64_t r = 0; r < rows; ++r)
                copy(turned_ ? block_ + (row + r) * width : apart_ + (begin_ + row + r) * apart_stride_ + first_,
                     tile_ + r * width, count_);
        else
            find(row);
        if (found_ != nullptr)
            for (int64_t r = 0; r < rows; ++r)
                copy(tile_ + r * width, found_ + (begin_ + row + r) * others_ + first_, count_);
        if (squares_)
            for (int64_t i = 0; i < kGemmRows * width; ++i)
                tile_[i] *= tile_[i];
        for (int64_t r = 0; r < kGemmRows; ++r) {
            const int64_t itself = begin_ + row + r + own_ - first_;
            if (itself >= 0 && itself < count_)
                tile_[r * width + itself] = kFar;
            for (int64_t j = count_; j < width; ++j)
                tile_[r * width + j] = kFar;
        }
        return tile_;
    }

    const A* panel() const { return panel_; } // (size, width)

  private:
    void find(int64_t row) {
        size_ > kFew ? squares<true>(row) : squares<false>(row);
        for (int64_t i = 0; i < kGemmRows * width; ++i)
            tile_[i] = detail::root_of(tile_[i]);
    }

    template <bool Product> void squares(int64_t row) {
        Vec sum[kGemmRows][kTileVectors] = {};
        const A *y = packed_ + row * size_, *panel = panel_;
        for (int64_t d = 0; d < size_; ++d, y += kGemmRows, panel += width) {
            Vec column[kTileVectors];
            for (int v = 0; v < kTileVectors; ++v)
                column[v] = *reinterpret_cast<const Vec*>(panel + v * step);
            for (int r = 0; r < kGemmRows; ++r)
                for (int v = 0; v < kTileVectors; ++v) {
                    const Vec apart = Product ? column[v] : column[v] - y[r];
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

    const T *const x_, *const y_;
    const int64_t x_stride_, y_stride_, size_, own_, others_;
    const bool squares_;
    const A* const apart_;
    const int64_t apart_stride_;
    const bool turned_;
    A* const found_;
    int64_t begin_ = 0, rows_ = 0, first_ = 0, count_ = 0;
    Scratch scratch_;
    A *packed_, *panel_, *tile_, *y_squares_, *x_squares_, *block_;
};

// Blocks of points begin..end, and panels of others, either of the first `data` or of the rest: open(first row, rows),
// enter(first, count), meet(side, row, rows, distances), leave(side, rows), close(first row, rows).
template <class T, class A, class Problem, class Sweep>
void walk(const Problem& p, int64_t begin, int64_t end, Distances<T, A>& distances, Sweep& sweep) {
    constexpr int64_t width = kGemmWidth<A>;
    for (int64_t block = begin; block < end; block += kBlock) {
        const int64_t rows = end - block < kBlock ? end - block : kBlock;
        distances.enter(block, rows);
        sweep.open(block, rows);
        for (int64_t first = 0; first < p.others;) {
            const int64_t side = first < p.data ? 0 : 1, until = side == 0 ? p.data : p.others;
            const int64_t count = until - first < width ? until - first : width;
            distances.take(first, count);
            sweep.enter(first, count);
            for (int64_t row = 0; row < rows; row += kGemmRows)
                sweep.meet(side, row, rows - row < kGemmRows ? rows - row : kGemmRows, distances.tile(row));
            sweep.leave(side, rows);
            first += count;
        }
        sweep.close(block, rows);
    }
}

// Exponentials from the least distance of a row on, lane by lane.
template <class T, class A> class Sums {
  public:
    explicit Sums(const DriftSums& p)
        : p_(p), scratch_(static_cast<int64_t>(sizeof(A)) * kBlock * (2 + (2 * p.count + 1) * step) + 3 * 64) {
        least_ = scratch_.template take<A>(2 * kBlock);
        totals_ = scratch_.template take<A>(kBlock * step);
        sums_ = scratch_.template take<A>(2 * kBlock * p.count * step);
    }

    void open(int64_t, int64_t) {
        for (int64_t i = 0; i < 2 * kBlock; ++i)
            least_[i] = kFar;
        fill_zero(totals_, kBlock * step), fill_zero(sums_, 2 * kBlock * p_.count * step);
    }
    void enter(int64_t, int64_t) {}
    void leave(int64_t, int64_t) {}

    void meet(int64_t side, int64_t row, int64_t rows, const A* t) {
        for (int64_t r = row; r < row + rows; ++r, t += width) {
            A* const total = totals_ + r * step;
            for (int64_t v = 0; v < width; v += step)
#pragma omp simd
                for (int64_t l = 0; l < step; ++l)
                    total[l] += t[v + l] == kFar ? A(0) : t[v + l];
            if (p_.count > 0)
                add(t, least_[side * kBlock + r], sums_ + (side * kBlock + r) * p_.count * step);
        }
    }

    void close(int64_t first, int64_t rows) {
        for (int64_t r = 0; r < rows; ++r) {
            static_cast<A*>(p_.totals)[first + r] = row_sum(totals_ + r * step);
            for (int64_t side = 0; side < 2; ++side)
                for (int64_t k = 0; k < p_.count; ++k) {
                    const A sum = row_sum(sums_ + ((side * kBlock + r) * p_.count + k) * step);
                    const A from = sum == A(0) ? A(0) : static_cast<A>(p_.rates[k]) * least_[side * kBlock + r];
                    static_cast<A*>(p_.logs)[((first + r) * 2 + side) * p_.count + k] = from + log(sum);
                }
        }
    }

  private:
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>, width = kGemmWidth<A>;
    static constexpr A kFar = Distances<T, A>::kFar;

    static A row_sum(const A* lanes) { return gemm_detail::lane_total<A>(*reinterpret_cast<const Vec*>(lanes)); }

    void add(const A* t, A& least, A* sums) {
        A nearest = least;
#pragma omp simd reduction(min : nearest)
        for (int64_t j = 0; j < width; ++j)
            nearest = detail::smaller(nearest, t[j]);
        for (int64_t k = 0; k < p_.count; ++k, sums += step) {
            const A rate = static_cast<A>(p_.rates[k]);
            Vec sum = *reinterpret_cast<const Vec*>(sums);
            if (nearest < least)
                sum *= exp_falling(rate * (least - nearest));
            alignas(64) A found[width];
#pragma omp simd
            for (int64_t j = 0; j < width; ++j)
                found[j] = t[j] == kFar ? A(0) : exp_falling(rate * (t[j] - nearest));
            for (int64_t v = 0; v < width; v += step)
                sum += *reinterpret_cast<const Vec*>(found + v);
            *reinterpret_cast<Vec*>(sums) = sum;
        }
        least = nearest;
    }

    const DriftSums& p_;
    Scratch scratch_;
    A *least_, *totals_, *sums_;
};

// For each side, rate and row of a block the sum of the weights, lane by lane, and that of weighted points: lane by
// lane for a few coordinates, else by a product of all the block's weights, for which a panel of points comes near
// once.
template <class T, class A> class Forces {
  public:
    Forces(const Drift& p, const A* panel)
        : p_(p), panel_(panel), few_(p.size <= kFew), ends_size_(few_ ? p.size * step : padded<A>(p.size)),
          scratch_(static_cast<int64_t>(sizeof(A)) * (2 * p.count * kBlock * (step + ends_size_) +
                                                      width * (kBlock * p.count + p.count + ends_size_)) +
                   5 * 64) {
        sums_ = scratch_.template take<A>(2 * p.count * kBlock * step);
        ends_ = scratch_.template take<A>(2 * p.count * kBlock * ends_size_);
        weights_ = scratch_.template take<A>(kBlock * p.count * width);
        right_ = scratch_.template take<A>(p.count * width);
        points_ = scratch_.template take<A>(few_ ? 0 : width * ends_size_);
        fill_zero(weights_, kBlock * p.count * width), fill_zero(points_, few_ ? 0 : width * ends_size_);
    }

    void open(int64_t first, int64_t) {
        first_ = first;
        fill_zero(sums_, 2 * p_.count * kBlock * step), fill_zero(ends_, 2 * p_.count * kBlock * ends_size_);
    }

    void enter(int64_t first, int64_t count) {
        count_ = count;
        for (int64_t j = 0; j < count && !few_; ++j)
            for (int64_t d = 0; d < p_.size; ++d)
                points_[j * ends_size_ + d] = load<A>(static_cast<const T*>(p_.x)[(first + j) * p_.x_stride + d]);
        const A* const right = static_cast<const A*>(p_.right) + first * p_.right_stride;
        for (int64_t k = 0; k < p_.count; ++k)
            for (int64_t j = 0; j < width; ++j)
                right_[k * width + j] = j < count ? right[j * p_.right_stride + k] : A(0);
    }

    void meet(int64_t side, int64_t row, int64_t rows, const A* t) {
        for (int64_t k = 0; k < p_.count; ++k)
            for (int64_t r = 0; r < rows; ++r) {
                A* const weights = weights_ + (k * kBlock + row + r) * width;
                const int64_t at = (side * p_.count + k) * kBlock + row + r;
                weigh(k, row + r, t + r * width, weights, sums_ + at * step);
                if (few_)
                    pull(weights, ends_ + at * ends_size_);
            }
    }

    void leave(int64_t side, int64_t rows) {
        const int64_t all = p_.count * kBlock;
        if (!few_)
            gemm<true>(Rows<A>{weights_, width}, points_, ends_size_, ends_ + side * all * ends_size_, ends_size_,
                       all - kBlock + rows, count_, ends_size_);
    }

    void close(int64_t first, int64_t rows) {
        for (int64_t k = 0; k < p_.count; ++k)
            for (int64_t row = 0; row < rows; ++row) {
                const int64_t near = k * kBlock + row, far = (p_.count + k) * kBlock + row;
                const A near_sum = sum_of(sums_ + near * step), far_sum = sum_of(sums_ + far * step);
                const A *const near_end = ends_ + near * ends_size_, *const far_end = ends_ + far * ends_size_;
                A* const force = static_cast<A*>(p_.forces) + (k * p_.rows + first + row) * p_.size;
                for (int64_t d = 0; d < p_.size; ++d)
                    force[d] = few_ ? far_sum * sum_of(near_end + d * step) - near_sum * sum_of(far_end + d * step)
                                    : far_sum * near_end[d] - near_sum * far_end[d];
            }
    }

  private:
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>, width = kGemmWidth<A>;
    static constexpr A kFar = Distances<T, A>::kFar;

    static A sum_of(const A* lanes) { return gemm_detail::lane_total<A>(*reinterpret_cast<const Vec*>(lanes)); }

    void weigh(int64_t k, int64_t row, const A* t, A* weights, A* sum) const {
        const A rate = static_cast<A>(p_.rates[k]), *const right = right_ + k * width;
        const A left = static_cast<const A*>(p_.left)[(first_ + row) * p_.left_stride + k];
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
            const A weight = exp_flushed(rate * t[j] - left - right[j]);
            weights[j] = t[j] == kFar ? A(0) : weight;
        }
        Vec total = *reinterpret_cast<const Vec*>(sum);
        for (int64_t v = 0; v < width; v += step)
            total += *reinterpret_cast<const Vec*>(weights + v);
        *reinterpret_cast<Vec*>(sum) = total;
    }

    void pull(const A* weights, A* ends) const {
        const A* x = panel_;
        for (int64_t d = 0; d < p_.size; ++d, x += width, ends += step) {
            Vec sum = *reinterpret_cast<const Vec*>(ends);
            for (int64_t v = 0; v < width; v += step)
                sum += *reinterpret_cast<const Vec*>(weights + v) * *reinterpret_cast<const Vec*>(x + v);
            *reinterpret_cast<Vec*>(ends) = sum;
        }
    }

    const Drift& p_;
    const A* const panel_;
    const bool few_;
    const int64_t ends_size_; // of what is kept of a row's weighted points
    int64_t first_ = 0, count_ = 0;
    Scratch scratch_;
    A *sums_, *ends_, *weights_, *right_, *points_;
};

} // namespace

namespace PFK_ISA {

void drift_sums(const DriftSums& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        using T = decltype(in_memory);
        using A = decltype(arithmetic);
        Distances<T, A> distances(p, static_cast<A*>(p.found));
        Sums<T, A> sums(p);
        walk(p, begin, end, distances, sums);
    });
}

void drift(const Drift& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        using T = decltype(in_memory);
        using A = decltype(arithmetic);
        Distances<T, A> distances(p);
        Forces<T, A> forces(p, distances.panel());
        walk(p, begin, end, distances, forces);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
