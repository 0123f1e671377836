// sinkhorn on the CPU: problem by problem, blocks of rows at a time. What a row's plan is made of, exp((f_i + g_j -
// C_ij) / reg), is kept between the steps where that fits, with scalings beside it, and made again in every step where
// it does not. One pass over it is a whole step: a block's sums give its f, and that its share of the sums of g.
// Compiled once per instruction set.

#include "../math/sinkhorn.h"
#include "scratch.h"
#include "sums.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kBlock = 16;       // rows that are looked at together
constexpr int64_t kStretch = 8;      // blocks whose sums are added before they are added in double
constexpr int64_t kKept = 1ll << 25; // numbers that are kept between the steps at most

// Columns from a row to the next: whole vectors, and never so many that rows meet in the same places of the caches.
template <class A> constexpr int64_t wide(int64_t n) {
    const int64_t columns = (n + kLanes - 1) / kLanes * kLanes;
    return columns * static_cast<int64_t>(sizeof(A)) % 2048 == 0 ? columns + kLanes : columns;
}

// All costs of a block of sources, from points or as given, and what becomes of them.
template <class T, class A> class Costs {
  public:
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>;

    template <class Problem>
    Costs(const Problem& p, int64_t row)
        : x0_(static_cast<const T*>(p.x0) + row * p.x0_stride), sources_(p.sources), targets_(p.targets),
          size_(p.given ? 0 : p.size), ld_(wide<A>(p.targets)), scratch_(bytes(p)) {
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
        return static_cast<int64_t>(sizeof(A)) * size * (wide<A>(p.targets) + kBlock) + 128;
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

// One problem on its way. Potentials are base + reg log(scale): the cells hold what the bases make, and masses are
// weights times scales.
template <class T, class A> class Iteration {
    using Vec = typename Vector<A>::Type;
    static constexpr int64_t step = kGemmVector<A>, kRows = step < 8 ? step : 8;

  public:
    Iteration(const Sinkhorn& p, int64_t row)
        : p_(p), costs_(p, row), ld_(costs_.ld()), rows_((p.sources + kBlock - 1) / kBlock * kBlock),
          kept_(rows_ * ld_ <= kKept), a_(static_cast<const A*>(p.a) + row * p.a_stride),
          b_(static_cast<const A*>(p.b) + row * p.b_stride), scratch_(room()) {
        cells_ = scratch_.template take<A>((kept_ ? rows_ : kBlock) * ld_);
        f_ = zeros(rows_), scale_ = zeros(rows_), given_ = zeros(rows_);
        g_ = zeros(ld_), log_scale_ = zeros(ld_), taken_ = zeros(ld_), sums_ = zeros(ld_);
        residual_ = zeros(ld_), last_residual_ = zeros(ld_), last_step_ = zeros(ld_);
        for (int k = 0; k < kMemory; ++k)
            changes_[k] = zeros(ld_), moves_[k] = zeros(ld_);
        totals_ = scratch_.template take<double>(ld_);
        for (int64_t j = 0; j < p.targets; ++j)
            whole_ += static_cast<double>(b_[j]);
    }

    // From f and g, or, where nobody has been yet, from their c-transforms: f_i = min_j C_ij - g_j and likewise for g,
    // so that every row and every column has an exponent of 0 and none has one above.
    void begin(const A* f, const A* g, double* state) {
        if (state[kReg] > 0) {
            copy(f, f_, p_.sources);
            copy(g, g_, p_.targets);
        } else {
            A apart = 0;
            transform([&](const A* costs, A least) {
                A most = least;
#pragma omp simd reduction(max : most)
                for (int64_t j = 0; j < p_.targets; ++j)
                    most = costs[j] > most && costs[j] < kInfinity ? costs[j] : most;
                apart = most - least > apart ? most - least : apart;
                for (int64_t j = 0; j < ld_; ++j)
                    residual_[j] = detail::smaller(costs[j] - least, residual_[j]);
            });
            copy(residual_, g_, p_.targets);
            transform([](const A*, A) {});
            begin_sinkhorn(state, static_cast<double>(apart), p_.reg, static_cast<double>(p_.most));
        }
        renew(state[kReg]);
    }

    // Steps until the end is made, or as many as this call may take.
    void run(double* state) {
        const double most = static_cast<double>(p_.most);
        for (int64_t taken = 0; state[kDone] == 0 && taken < p_.steps; ++taken) {
            if (!goes_on(state, pass(), p_.reg, p_.tolerance, most))
                return;
            mix(may_mix(state));
            const bool cooled = cools(state, p_.reg, most);
            if (cooled || !kept_ || far())
                renew(state[kReg]);
            if (cooled)
                forget();
        }
    }

    // The potentials, NaN if the error is.
    void give(const double* state, A* f, A* g) const {
        const A none = state[kError] == state[kError] ? A(0) : static_cast<A>(state[kError]);
        for (int64_t i = 0; i < p_.sources; ++i)
            f[i] = f_[i] + reg_ * log(scale_[i]) + none;
        for (int64_t j = 0; j < p_.targets; ++j)
            g[j] = g_[j] + reg_ * log_scale_[j] + none;
        balance(f, g);
    }

  private:
    // What all g have in common f takes back: left to itself it would wander off, where numbers are coarse.
    void balance(A* f, A* g) const {
        if (!(p_.reg_m > 1e300))
            return;
        double common = 0;
        for (int64_t j = 0; j < p_.targets; ++j)
            common += static_cast<double>(g[j]);
        const A shift = static_cast<A>(common / static_cast<double>(p_.targets));
        for (int64_t i = 0; i < p_.sources; ++i)
            f[i] += shift;
        for (int64_t j = 0; j < p_.targets; ++j)
            g[j] -= shift;
    }
    int64_t room() const {
        const int64_t numbers = (kept_ ? rows_ : kBlock) * ld_ + 3 * rows_ + (7 + 2 * kMemory) * ld_;
        return static_cast<int64_t>(sizeof(A)) * numbers + 8 * ld_ + (13 + 2 * kMemory) * 64;
    }
    A* zeros(int64_t n) {
        A* const values = scratch_.template take<A>(n);
        for (int64_t i = 0; i < n; ++i)
            values[i] = A(0);
        return values;
    }
    A* cells(int64_t row) { return cells_ + (kept_ ? row * ld_ : 0); }

    // f becomes the c-transform of g, the first time that of 0; take(costs of a row, its f).
    template <class Take> void transform(Take take) {
        for (int64_t j = 0; j < ld_; ++j)
            residual_[j] = kInfinity;
        for (int64_t row = 0; row < p_.sources; row += kBlock) {
            A* const block = cells(row);
            if (!written_)
                costs_.write(row, block);
            for (int64_t r = 0; r < kBlock && row + r < p_.sources; ++r) {
                const A* const costs = block + r * ld_;
                A least = kInfinity;
#pragma omp simd reduction(min : least)
                for (int64_t j = 0; j < p_.targets; ++j)
                    least = detail::smaller(costs[j] - g_[j], least);
                f_[row + r] = least;
                take(costs, least);
            }
        }
        written_ = kept_;
    }

    // The scales go into the bases, and the cells are made for this reg, now or when they are looked at.
    void renew(double reg) {
        for (int64_t i = 0; i < p_.sources; ++i) {
            f_[i] += scale_[i] > A(0) ? reg_ * log(scale_[i]) : A(0);
            scale_[i] = A(1);
        }
        for (int64_t j = 0; j < p_.targets; ++j) {
            g_[j] += reg_ * log_scale_[j];
            log_scale_[j] = A(0), taken_[j] = b_[j];
        }
        balance(f_, g_);
        reg_ = static_cast<A>(reg), inverse_ = static_cast<A>(1 / reg);
        relax_ = static_cast<A>(relax_of(reg, p_.reg_m)), unpaid_ = static_cast<A>(reg / p_.reg_m);
        for (int64_t row = 0; kept_ && row < p_.sources; row += kBlock)
            make(row);
        written_ = false;
    }

    // exp((f + g - C) / reg) of a block of rows.
    void make(int64_t row) {
        A* q = cells(row);
        if (!written_)
            costs_.write(row, q);
        for (int64_t r = 0; r < kBlock; ++r, q += ld_) {
            const A base = f_[row + r];
#pragma omp simd
            for (int64_t j = 0; j < ld_; ++j)
                q[j] = exp_flushed(detail::smaller((base - q[j] + g_[j]) * inverse_, kMost));
        }
    }

    // f from g, the sums of the targets, and their error.
    double pass() {
        for (int64_t j = 0; j < ld_; ++j)
            sums_[j] = A(0), totals_[j] = 0;
        for (int64_t row = 0; row < p_.sources; row += kBlock) {
            if (!kept_)
                make(row);
            const A* const q = cells(row);
            alignas(64) A sum[kBlock];
            dots(q, sum);
            const int64_t rows = p_.sources - row < kBlock ? p_.sources - row : kBlock;
            for (int64_t r = 0; r < rows; ++r)
                scale_[row + r] = A(1) / (sum[r] < A(kLeastMass) ? A(kLeastMass) : sum[r]);
            if (unpaid_ > 0)
                for (int64_t r = row; r < row + rows; ++r)
                    scale_[r] = exp(scaling_of(sum[r - row], f_[r] * inverse_, relax_));
            for (int64_t r = row; r < row + rows; ++r)
                given_[r] = a_[r] * scale_[r];
            add(q, given_ + row);
            if (row / kBlock % kStretch == kStretch - 1 || row + kBlock >= p_.sources)
                for (int64_t j = 0; j < ld_; ++j) {
                    totals_[j] += static_cast<double>(sums_[j]);
                    sums_[j] = A(0);
                }
        }
        double error = 0;
#pragma omp simd reduction(+ : error)
        for (int64_t j = 0; j < p_.targets; ++j) {
            const A due = unpaid_ > 0 ? exp(-unpaid_ * (g_[j] * inverse_ + log_scale_[j])) : A(1);
            error += detail::magnitude(static_cast<double>(taken_[j]) * totals_[j] - static_cast<double>(b_[j] * due));
        }
        return whole_ > 0 ? error / whole_ : error;
    }

    // The sums of the rows of a block, as many at a time as its vectors have lanes.
    void dots(const A* q, A* sum) const {
        for (int64_t row = 0; row < kBlock; row += step, q += step * ld_) {
            Vec part[step] = {};
            for (int64_t r = 0; r < step; r += kRows)
                for (int64_t j = 0; j < ld_; j += step) {
                    const Vec mass = *reinterpret_cast<const Vec*>(taken_ + j);
                    for (int64_t i = r; i < r + kRows; ++i)
                        part[i] += mass * *reinterpret_cast<const Vec*>(q + i * ld_ + j);
                }
            *reinterpret_cast<Vec*>(sum + row) = lane_sums<A>(part);
        }
    }

    void add(const A* q, const A* mass) {
        for (int64_t row = 0; row < kBlock; row += kRows, q += kRows * ld_) {
            Vec share[kRows];
            for (int64_t r = 0; r < kRows; ++r)
                share[r] = Vec{} + mass[row + r];
            for (int64_t j = 0; j < ld_; j += step) {
                Vec part[2] = {*reinterpret_cast<const Vec*>(sums_ + j)};
                for (int64_t r = 0; r < kRows; ++r)
                    part[r % 2] += share[r] * *reinterpret_cast<const Vec*>(q + r * ld_ + j);
                *reinterpret_cast<Vec*>(sums_ + j) = part[0] + part[1];
            }
        }
    }

    bool far() const {
        A most = 0, least = 1, furthest = 0;
#pragma omp simd reduction(max : most) reduction(min : least)
        for (int64_t i = 0; i < p_.sources; ++i) {
            most = scale_[i] > most ? scale_[i] : most;
            least = scale_[i] < least ? scale_[i] : least;
        }
#pragma omp simd reduction(max : furthest)
        for (int64_t j = 0; j < p_.targets; ++j) {
            const A here = detail::magnitude(log_scale_[j]);
            furthest = here > furthest ? here : furthest;
        }
        return most > A(kFarScale) || least < A(1 / kFarScale) || furthest > A(kFar);
    }

    void forget() { remembered_ = 0, known_ = false; }

    // A step of g, by what the last ones have brought, or a plain one.
    void mix(bool mixed) {
        if (!mixed)
            forget();
#pragma omp simd
        for (int64_t j = 0; j < p_.targets; ++j)
            residual_[j] = scaling_of(static_cast<A>(totals_[j]), g_[j] * inverse_, relax_) - log_scale_[j];
        if (known_) {
            const int slot = static_cast<int>(remembered_++ % kMemory);
            for (int64_t j = 0; j < p_.targets; ++j) {
                changes_[slot][j] = residual_[j] - last_residual_[j];
                moves_[slot][j] = last_step_[j] + changes_[slot][j];
            }
            for (int k = 0; k < kMemory; ++k)
                products_[k * kMemory + slot] = products_[slot * kMemory + k] = product(changes_[slot], changes_[k]);
        }
        const int n = static_cast<int>(remembered_ < kMemory ? remembered_ : kMemory);
        double gram[kMemory * kMemory], x[kMemory] = {};
        for (int k = 0; k < kMemory * kMemory; ++k)
            gram[k] = products_[k];
        for (int k = 0; k < n; ++k)
            x[k] = product(changes_[k], residual_);
        solve_mixing(gram, x, n);
        for (int64_t j = 0; j < p_.targets; ++j)
            last_step_[j] = residual_[j];
        for (int k = 0; k < n; ++k)
            for (int64_t j = 0; j < p_.targets; ++j)
                last_step_[j] -= static_cast<A>(x[k]) * moves_[k][j];
        if (!(product(last_step_, last_step_) < 1e300)) // or NaN
            copy(residual_, last_step_, p_.targets);
#pragma omp simd
        for (int64_t j = 0; j < p_.targets; ++j) {
            const A most = A(kFurthest), next = log_scale_[j] + last_step_[j];
            log_scale_[j] = next > most ? most : next < -most ? -most : next;
            taken_[j] = b_[j] * exp(log_scale_[j]);
            last_residual_[j] = residual_[j];
        }
        known_ = true;
    }

    double product(const A* x, const A* y) const {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < p_.targets; ++j)
            sum += static_cast<double>(x[j]) * static_cast<double>(y[j]);
        return sum;
    }

    static constexpr A kInfinity = static_cast<A>(__builtin_inf());
    static constexpr A kMost = sizeof(A) == 4 ? A(80) : A(700); // of an exponent: what is beyond has no weight

    const Sinkhorn& p_;
    Costs<T, A> costs_;
    const int64_t ld_, rows_;
    const bool kept_;
    const A *const a_, *const b_;
    A reg_ = 1, inverse_ = 1, relax_ = 1, unpaid_ = 0;
    Scratch scratch_;
    A *cells_, *f_, *scale_, *given_, *g_, *log_scale_, *taken_, *sums_; // of the sources up to `given_`
    A *residual_, *last_residual_, *last_step_, *changes_[kMemory], *moves_[kMemory];
    double *totals_, whole_ = 0, products_[kMemory * kMemory] = {};
    int64_t remembered_ = 0;
    bool known_ = false, written_ = false; // the last residual and step; costs, in all cells
};

template <class T, class A> void solve(const Sinkhorn& p, int64_t row) {
    double* const state = p.state + row * kSinkhornState;
    for (int i = 0; i < kSinkhornState; ++i)
        state[i] = p.state0[row * p.state0_stride + i];
    Iteration<T, A> iteration(p, row);
    iteration.begin(static_cast<const A*>(p.f0) + row * p.f0_stride, static_cast<const A*>(p.g0) + row * p.g0_stride,
                    state);
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
