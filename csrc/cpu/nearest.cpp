// nearest on the CPU: tiles of six sources and a panel of targets, whose products stay in registers and leave behind
// the largest of each lane and where it was. Compiled once per instruction set.

#include "../math/nearest.h"
#include "scratch.h"
#include "sums.h"

namespace pfk::cpu {
namespace {

template <class T, class A> class Search {
    using Vec = typename Vector<A>::Type;
    using Int = typename IntOf<sizeof(A)>::Type;
    typedef Int Places __attribute__((vector_size(kVectorBytes), aligned(sizeof(Int)), may_alias));
    static constexpr int64_t step = kGemmVector<A>, width = kGemmWidth<A>;

  public:
    Search(const Nearest& p, int64_t begin, int64_t end)
        : p_(p), begin_(begin), rows_(end - begin), blocks_((rows_ + kGemmRows - 1) / kGemmRows),
          scratch_(static_cast<int64_t>(sizeof(A)) *
                       (blocks_ * kGemmRows * (p.size + 2 * step) + width * (p.size + 1)) +
                   6 * 64) {
        sources_ = scratch_.template take<A>(blocks_ * kGemmRows * p.size);
        panel_ = scratch_.template take<A>(width * p.size);
        heights_ = scratch_.template take<A>(width);
        best_ = scratch_.template take<A>(blocks_ * kGemmRows * step);
        places_ = scratch_.template take<Int>(blocks_ * kGemmRows * step);
        pack(static_cast<const T*>(p.x0) + begin * p.x0_stride, p.x0_stride, 1, rows_, p.size, sources_);
        for (int64_t i = 0; i < blocks_ * kGemmRows * step; ++i)
            best_[i] = kNone, places_[i] = 0;
    }

    void run() {
        for (int64_t first = 0; first < p_.targets; first += width) {
            const int64_t count = p_.targets - first < width ? p_.targets - first : width;
            const T* const x1 = static_cast<const T*>(p_.x1) + first * p_.x1_stride;
            const A* const heights = static_cast<const A*>(p_.heights) + first * p_.heights_stride;
            for (int64_t j = 0; j < width; ++j) {
                heights_[j] = j < count ? heights[j * p_.heights_stride] : kNone;
                for (int64_t d = 0; d < p_.size; ++d)
                    panel_[d * width + j] = j < count ? load<A>(x1[j * p_.x1_stride + d]) : A(0);
            }
            for (int64_t block = 0; block < blocks_; ++block)
                tile(block, first / step);
        }
        for (int64_t row = 0; row < rows_; ++row)
            give(row);
    }

  private:
    void tile(int64_t block, int64_t place) {
        Vec sum[kGemmRows][kTileVectors];
        for (int r = 0; r < kGemmRows; ++r)
            for (int v = 0; v < kTileVectors; ++v)
                sum[r][v] = *reinterpret_cast<const Vec*>(heights_ + v * step);
        const A *x = sources_ + block * kGemmRows * p_.size, *panel = panel_;
        for (int64_t d = 0; d < p_.size; ++d, x += kGemmRows, panel += width)
            for (int v = 0; v < kTileVectors; ++v) {
                const Vec column = *reinterpret_cast<const Vec*>(panel + v * step);
                for (int r = 0; r < kGemmRows; ++r)
                    sum[r][v] += x[r] * column;
            }
        for (int r = 0; r < kGemmRows; ++r) {
            Vec& best = *reinterpret_cast<Vec*>(best_ + (block * kGemmRows + r) * step);
            Places& places = *reinterpret_cast<Places*>(places_ + (block * kGemmRows + r) * step);
            for (int v = 0; v < kTileVectors; ++v) {
                const auto larger = (sum[r][v] > best) | (sum[r][v] != sum[r][v]); // NaN wins, and stays
                best = larger ? sum[r][v] : best;
                places = larger ? Places{} + static_cast<Int>(place + v) : places;
            }
        }
    }

    // The largest of the lanes, the first of equal ones; NaN if there is one.
    void give(int64_t row) {
        A value = kNone;
        int64_t index = 0;
        for (int64_t l = 0; l < step; ++l) {
            const A here = best_[row * step + l];
            const int64_t at = static_cast<int64_t>(places_[row * step + l]) * step + l;
            if (value == value && (here > value || here != here || (here == value && here > kNone && at < index)))
                value = here, index = at;
        }
        p_.index[begin_ + row] = index < p_.targets ? index : p_.targets - 1; // NaN may come from beyond the last
        static_cast<A*>(p_.value)[begin_ + row] = value;
    }

    static constexpr A kNone = -static_cast<A>(__builtin_inf());

    const Nearest& p_;
    const int64_t begin_, rows_, blocks_;
    Scratch scratch_;
    A *sources_, *panel_, *heights_, *best_;
    Int* places_;
};

} // namespace

namespace PFK_ISA {

void nearest(const Nearest& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        Search<decltype(in_memory), decltype(arithmetic)>(p, begin, end).run();
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
