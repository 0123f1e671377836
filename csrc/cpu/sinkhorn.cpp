// sinkhorn on the CPU: problem by problem, blocks of rows at a time. What a row's plan is made of, exp((f_i + g_j -
// C_ij) / reg), is kept between the steps where that fits, with scalings beside it, and made again in every step where
// it does not. One pass over it is a whole step: a block's sums give its f, and that its share of the sums of g.
// Compiled once per instruction set.

#include "../math/sinkhorn.h"
#include "gemm.h"
#include "scratch.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kBlock = 16;       // rows that are looked at together
constexpr int64_t kStretch = 8;      // blocks whose sums are added before they are added in double
constexpr int64_t kKept = 1ll << 25; // numbers that are kept between the steps at most

constexpr int64_t wide(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// All costs of a block of sources, from points or as given, and what becomes of them.
template <class T, class A> class Costs {
  public:
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>;

    template <class Problem>
    Costs(const Problem& p, int64_t row)
        : x0_(static_cast<const T*>(p.x0) + row * p.x0_stride), sources_(p.sources), targets_(p.targets),
          size_(p.given ? 0 : p.size), ld_(wide(p.targets)), scratch_(bytes(p)) {
        turned_ = scratch_.template take<A>(size_ * ld_);
        block_ = scratch_.template take<A>(kBlock * size_);
        const T* const x1 = static_cast<const T*>(p.x1) + row * p.x1_stride;
        for (int64_t d = 0; d < size_; ++d)
            for (int64_t j = 0; j < ld_; ++j)
                turned_[d * ld_ + j] = j < targets_ ? load<A>(x1[j * size_ + d]) : A(0);
        given_ = p.given;
    }

    int64_t ld() const { return ld_; }

    // C of kBlock rows from `row` on; rows and columns beyond the last are finite.
    void write(int64_t row, A* to) {
        const int64_t rows = sources_ - row < kBlock ? sources_ - row : kBlock;
        if (given_) {
            for (int64_t r = 0; r < kBlock; ++r)
                for (int64_t j = 0; j < ld_; ++j)
                    to[r * ld_ + j] = r < rows && j < targets_ ? load<A>(x0_[(row + r) * targets_ + j]) : A(0);
            return;
        }
        for (int64_t i = 0; i < kBlock * size_; ++i)
            block_[i] = i < rows * size_ ? load<A>(x0_[row * size_ + i]) : A(0);
        int64_t at = 0;
        for (; at + kTileVectors * step <= ld_; at += kTileVectors * step)
            for (int64_t r = 0; r < kBlock; r += 4)
                distances<kTileVectors>(r, at, to);
        for (; at < ld_; at += step)
            for (int64_t r = 0; r < kBlock; r += 4)
                distances<1>(r, at, to);
    }

  private:
    template <class Problem> static int64_t bytes(const Problem& p) {
        const int64_t size = p.given ? 0 : p.size;
        return static_cast<int64_t>(sizeof(A)) * size * (wide(p.targets) + kBlock) + 128;
    }

    template <int V> void distances(int64_t row, int64_t at, A* to) const {
        Vec sum[4][V] = {};
        const A* x = block_ + row * size_;
        for (int64_t d = 0; d < size_; ++d)
            for (int v = 0; v < V; ++v) {
                const Vec y = *reinterpret_cast<const Vec*>(turned_ + d * ld_ + at + v * step);
                for (int r = 0; r < 4; ++r) {
                    const Vec apart = y - x[r * size_ + d];
                    sum[r][v] += apart * apart;
                }
            }
        for (int r = 0; r < 4; ++r)
            for (int v = 0; v < V; ++v)
                *reinterpret_cast<Vec*>(to + (row + r) * ld_ + at + v * step) = sum[r][v];
    }

    const T* x0_;
    int64_t sources_, targets_, size_, ld_;
    bool given_;
    Scratch scratch_;
    A *turned_, *block_;
};

// One problem on its way.
template <class T, class A> class Iteration {
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>;

  public:
    Iteration(const Sinkhorn& p, int64_t row)
        : p_(p), costs_(p, row), ld_(costs_.ld()), rows_((p.sources + kBlock - 1) / kBlock * kBlock),
          kept_(rows_ * ld_ <= kKept), inverse_(A(1 / p.reg)), relax_(A(p.relax)), unpaid_(A((1 - p.relax) / p.relax)),
          scratch_(static_cast<int64_t>(sizeof(A)) * ((kept_ ? rows_ : kBlock) * ld_ + 5 * rows_ + 6 * ld_) + 8 * ld_ +
                   14 * 64) {
        cells_ = scratch_.template take<A>((kept_ ? rows_ : kBlock) * ld_);
        source_.open(scratch_, static_cast<const A*>(p.a) + row * p.a_stride, p.sources, rows_);
        target_.open(scratch_, static_cast<const A*>(p.b) + row * p.b_stride, p.targets, ld_);
        sums_ = scratch_.template take<A>(ld_);
        totals_ = scratch_.template take<double>(ld_);
        for (int64_t i = 0; i < p.sources; ++i)
            whole_ += static_cast<double>(source_.weight[i]);
    }

    // From f and g, or, where nobody has been yet, from their c-transforms: f_i = min_j C_ij - g_j and
    // likewise for g, twice, so that every row and every column has an exponent of 0 and none has one above.
    void begin(const A* f, const A* g, bool fresh) {
        if (!fresh) {
            for (int64_t i = 0; i < p_.sources; ++i)
                source_.base[i] = f[i];
            for (int64_t j = 0; j < p_.targets; ++j)
                target_.base[j] = g[j];
            if (kept_)
                for_blocks([&](int64_t row) { costs_.write(row, cells(row)); });
        } else {
            const A infinity = static_cast<A>(__builtin_inf());
            for (int64_t j = 0; j < ld_; ++j)
                target_.next[j] = infinity;
            for_blocks([&](int64_t row) {
                costs_.write(row, cells(row));
                for (int64_t r = row; r < row + kBlock && r < p_.sources; ++r) {
                    const A f_r = least(cells(row) + (r - row) * ld_);
                    for (int64_t j = 0; j < ld_; ++j)
                        target_.next[j] = detail::smaller(cells(row)[(r - row) * ld_ + j] - f_r, target_.next[j]);
                }
            });
            for (int64_t j = 0; j < ld_; ++j)
                target_.base[j] = target_.next[j];
            for_blocks([&](int64_t row) {
                if (!kept_)
                    costs_.write(row, cells(row));
                for (int64_t r = row; r < row + kBlock && r < p_.sources; ++r)
                    source_.base[r] = least(cells(row) + (r - row) * ld_);
            });
            for (int64_t j = 0; j < ld_; ++j)
                target_.next[j] = A(0);
        }
        if (kept_)
            for_blocks([&](int64_t row) { exponentiate(row); });
    }

    // Steps until the end is made, or as many as this call may take.
    void run(double* state) {
        for (int64_t taken = 0; state[kDone] == 0 && taken < p_.steps; ++taken) {
            const A omega = static_cast<A>(state[kStep]);
            pace_sinkhorn(state, pass(omega), p_.tolerance, static_cast<double>(p_.most));
            if (state[kDone] != 0)
                return;
            update(target_, 0, ld_, omega, [&](int64_t j) { return static_cast<A>(totals_[j]); });
            source_.turn();
            target_.turn();
            if (kept_ && !source_.far() && !target_.far())
                continue;
            source_.absorb(A(p_.reg));
            target_.absorb(A(p_.reg));
            if (kept_)
                for_blocks([&](int64_t row) {
                    costs_.write(row, cells(row));
                    exponentiate(row);
                });
        }
    }

    // The potentials, NaN if the error is.
    void give(const double* state, A* f, A* g) const {
        const A none = state[kError] == state[kError] ? A(0) : static_cast<A>(state[kError]);
        for (int64_t i = 0; i < p_.sources; ++i)
            f[i] = source_.base[i] + source_.scaling[i] * A(p_.reg) + none;
        for (int64_t j = 0; j < p_.targets; ++j)
            g[j] = target_.base[j] + target_.scaling[j] * A(p_.reg) + none;
    }

  private:
    // Potentials are base + reg scaling; masses are weights times the exponential of the scaling.
    struct Side {
        int64_t count, padded;
        A *weight, *base, *scaling, *next, *mass;

        void open(Scratch& scratch, const A* given, int64_t n, int64_t room) {
            count = n, padded = room;
            weight = scratch.template take<A>(padded), base = scratch.template take<A>(padded);
            scaling = scratch.template take<A>(padded), next = scratch.template take<A>(padded);
            mass = scratch.template take<A>(padded);
            for (int64_t i = 0; i < padded; ++i) {
                weight[i] = mass[i] = i < count ? given[i] : A(0);
                base[i] = scaling[i] = next[i] = A(0);
            }
        }
        void turn() {
            A* const old = scaling;
            scaling = next, next = old;
        }
        bool far() const {
            bool beyond = false;
            for (int64_t i = 0; i < count; ++i)
                beyond |= detail::magnitude(scaling[i]) > A(kFar);
            return beyond;
        }
        void absorb(A reg) {
            for (int64_t i = 0; i < padded; ++i) {
                base[i] += scaling[i] * reg;
                scaling[i] = 0;
                mass[i] = weight[i];
            }
        }
    };

    A* cells(int64_t row) { return cells_ + (kept_ ? row * ld_ : 0); }

    template <class Body> void for_blocks(Body body) {
        for (int64_t row = 0; row < p_.sources; row += kBlock)
            body(row);
    }

    A least(const A* costs) const {
        A found = static_cast<A>(__builtin_inf());
#pragma omp simd reduction(min : found)
        for (int64_t j = 0; j < p_.targets; ++j)
            found = detail::smaller(costs[j] - target_.base[j], found);
        return found;
    }

    // From costs to exp((f + g - C) / reg) over what is absorbed.
    void exponentiate(int64_t row) {
        A* q = cells(row);
        for (int64_t r = 0; r < kBlock; ++r, q += ld_) {
            const A base = source_.base[row + r];
#pragma omp simd
            for (int64_t j = 0; j < ld_; ++j)
                q[j] = exp_flushed(detail::smaller((base - q[j] + target_.base[j]) * inverse_, kMost));
        }
    }

    // The scalings that follow from sum(i), and their masses.
    template <class Sum> void update(Side& side, int64_t from, int64_t to, A omega, Sum sum) {
#pragma omp simd
        for (int64_t i = from; i < to; ++i) {
            side.next[i] = step_sinkhorn(side.scaling[i], side.base[i] * inverse_, sum(i), omega, relax_);
            side.mass[i] = side.weight[i] * exp(side.next[i]);
        }
    }

    // Moves the sources, adds up the sums of the targets, and returns the error before.
    double pass(A omega) {
        double error = 0;
        for (int64_t j = 0; j < ld_; ++j)
            sums_[j] = A(0), totals_[j] = 0;
        for_blocks([&](int64_t row) {
            A* const q = cells(row);
            if (!kept_) {
                costs_.write(row, q);
                exponentiate(row);
            }
            alignas(64) A sum[kBlock], apart[kBlock];
            for (int64_t r = 0; r < kBlock; r += 4)
                dots(q + r * ld_, sum + r);
#pragma omp simd
            for (int64_t r = 0; r < kBlock; ++r) {
                const int64_t i = row + r;
                const A due = unpaid_ == 0 ? A(1) : exp(-unpaid_ * (source_.base[i] * inverse_ + source_.scaling[i]));
                apart[r] = detail::magnitude(source_.mass[i] * sum[r] - source_.weight[i] * due);
            }
            for (int64_t r = 0; r < kBlock; ++r)
                error += static_cast<double>(apart[r]);
            update(source_, row, row + kBlock, omega, [&](int64_t i) { return sum[i - row]; });
            add(q, source_.mass + row);
            if (row / kBlock % kStretch == kStretch - 1 || row + kBlock >= p_.sources)
                for (int64_t j = 0; j < ld_; ++j) {
                    totals_[j] += static_cast<double>(sums_[j]);
                    sums_[j] = A(0);
                }
        });
        return whole_ > 0 ? error / whole_ : error;
    }

    void dots(const A* q, A* sum) const {
        Vec part[4] = {};
        for (int64_t j = 0; j < ld_; j += step) {
            const Vec mass = *reinterpret_cast<const Vec*>(target_.mass + j);
            for (int r = 0; r < 4; ++r)
                part[r] += mass * *reinterpret_cast<const Vec*>(q + r * ld_ + j);
        }
        for (int r = 0; r < 4; ++r)
            sum[r] = gemm_detail::lane_total<A>(part[r]);
    }

    void add(const A* q, const A* mass) {
        for (int64_t j = 0; j < ld_; j += step) {
            Vec even = *reinterpret_cast<const Vec*>(sums_ + j), odd = {};
            for (int r = 0; r < kBlock; r += 2) {
                even += mass[r] * *reinterpret_cast<const Vec*>(q + r * ld_ + j);
                odd += mass[r + 1] * *reinterpret_cast<const Vec*>(q + (r + 1) * ld_ + j);
            }
            *reinterpret_cast<Vec*>(sums_ + j) = even + odd;
        }
    }

    static constexpr A kMost = sizeof(A) == 4 ? A(80) : A(700); // of an exponent: what is beyond has no weight

    const Sinkhorn& p_;
    Costs<T, A> costs_;
    const int64_t ld_, rows_;
    const bool kept_;
    const A inverse_, relax_, unpaid_;
    Scratch scratch_;
    A *cells_, *sums_;
    double *totals_, whole_ = 0;
    Side source_, target_;
};

template <class T, class A> void solve(const Sinkhorn& p, int64_t row) {
    double* const state = p.state + row * kSinkhornState;
    const double* const before = p.state0 + row * p.state0_stride;
    const bool fresh = before[kStep] == 0;
    for (int i = 0; i < kSinkhornState; ++i)
        state[i] = before[i];
    if (fresh)
        begin_sinkhorn(state);
    Iteration<T, A> iteration(p, row);
    iteration.begin(static_cast<const A*>(p.f0) + row * p.f0_stride, static_cast<const A*>(p.g0) + row * p.g0_stride,
                    fresh);
    iteration.run(state);
    iteration.give(state, static_cast<A*>(p.f) + row * p.sources, static_cast<A*>(p.g) + row * p.targets);
}

// What a stretch of numbers comes to.
template <class A> double stretch(const A* values, int64_t first, int64_t count) {
    RowSum<A> sum;
    sum.add(values + first, count - first < kTile ? count - first : kTile);
    return static_cast<double>(sum.total());
}

template <class T, class A> void draw(const SinkhornDraw& p, int64_t row) {
    Costs<T, A> costs(p, row);
    const int64_t ld = costs.ld();
    const A inverse = A(1 / p.reg), *const b = static_cast<const A*>(p.b) + row * p.b_stride;
    const A* const g = static_cast<const A*>(p.g) + row * p.g_stride;
    const double* const uniform = p.uniform + row * p.uniform_stride;
    Scratch scratch(static_cast<int64_t>(sizeof(A)) * kBlock * ld);
    A* const block = scratch.take<A>(kBlock * ld);
    for (int64_t at = 0; at < p.sources; at += kBlock) {
        costs.write(at, block);
        for (int64_t r = 0; r < kBlock && at + r < p.sources; ++r) {
            A* const cell = block + r * ld;
            A most = -static_cast<A>(__builtin_inf());
#pragma omp simd reduction(max : most)
            for (int64_t j = 0; j < p.targets; ++j) {
                cell[j] = b[j] > 0 ? (g[j] - cell[j]) * inverse : -static_cast<A>(__builtin_inf());
                most = cell[j] > most ? cell[j] : most;
            }
#pragma omp simd
            for (int64_t j = 0; j < p.targets; ++j)
                cell[j] = b[j] * exp_flushed(cell[j] - most);
            double whole = 0, sum = 0;
            for (int64_t first = 0; first < p.targets; first += kTile)
                whole += stretch(cell, first, p.targets);
            const double wanted = uniform[at + r] * whole;
            int64_t first = 0, last = 0, j = 0;
            for (; first < p.targets; first += kTile) { // the stretch in which it lies, then the place there
                const double here = stretch(cell, first, p.targets);
                if (sum + here > wanted)
                    break;
                sum += here;
            }
            for (j = first; j < p.targets; ++j) {
                last = cell[j] > 0 ? j : last;
                sum += static_cast<double>(cell[j]);
                if (sum > wanted)
                    break;
            }
            p.index[(row * p.sources) + at + r] = j < p.targets ? j : last;
        }
    }
}

} // namespace

namespace PFK_ISA {

void sinkhorn(const Sinkhorn& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        for (int64_t row = begin; row < end; ++row)
            solve<decltype(in_memory), decltype(arithmetic)>(p, row);
    });
}

void sinkhorn_draw(const SinkhornDraw& p, int64_t begin, int64_t end) {
    with_types(p.type, [&](auto in_memory, auto arithmetic) {
        for (int64_t row = begin; row < end; ++row)
            draw<decltype(in_memory), decltype(arithmetic)>(p, row);
    });
}

} // namespace PFK_ISA
} // namespace pfk::cpu
