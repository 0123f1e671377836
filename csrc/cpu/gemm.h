// Small matrix products for the kernels whose networks are narrow: y (M, N) = w (M, K) x (K, N), N along the vectors.
//
// w is packed once into blocks of kGemmRows rows; x and y lie as they are, rows of any distance. Samples go along N, so
// that each of them has a lane of its own: an element of y is the sum over k in rising order whatever stands beside it,
// and results depend neither on threads nor on batch mates. Included once per instruction set, like tile.h.
#pragma once

#include "tile.h"

namespace pfk::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileVectors = 4; // 6 x 4 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileVectors = 2; // 6 x 2 of 16
#else
constexpr int kVectorBytes = 16, kTileVectors = 2;
#endif

constexpr int64_t kGemmRows = 6;
template <class A> constexpr int64_t kGemmVector = kVectorBytes / static_cast<int64_t>(sizeof(A));
template <class A> constexpr int64_t kGemmWidth = kTileVectors * kGemmVector<A>; // columns of a full tile

// One register. Loads and stores go through memcpy semantics: no alignment is asked for.
template <class A> struct Vector {
    typedef A Type __attribute__((vector_size(kVectorBytes), aligned(sizeof(A)), may_alias));
};

// Elements of a packed (M, K) matrix; each block of kGemmRows rows starts at a multiple of kGemmRows * K.
constexpr int64_t packed_size(int64_t m, int64_t k) { return (m + kGemmRows - 1) / kGemmRows * kGemmRows * k; }

// packed[block][k][row in block] = w[row * row_step + k * column_step], zero below the last row. With the steps
// exchanged it packs the transposed matrix.
template <class T, class A>
void pack(const T* w, int64_t row_step, int64_t column_step, int64_t m, int64_t k, A* packed) {
    for (int64_t first = 0; first < m; first += kGemmRows) {
        const int64_t rows = m - first < kGemmRows ? m - first : kGemmRows;
        for (int64_t j = 0; j < k; ++j, packed += kGemmRows)
            for (int64_t r = 0; r < kGemmRows; ++r)
                packed[r] = r < rows ? load<A>(w[(first + r) * row_step + j * column_step]) : A(0);
    }
}

// The left operand of a product: packed, or as it lies (by rows, or transposed), which saves the packing where it is
// used once.
template <class A> struct Packed {
    const A* at;
    Packed from(int64_t row, int64_t first, int64_t k) const { return {at + row * k + first * kGemmRows}; }
    A operator[](int64_t r) const { return at[r]; }
    void next() { at += kGemmRows; }
};

template <class A> struct Rows {
    const A* at;
    int64_t ld;
    Rows from(int64_t row, int64_t first, int64_t) const { return {at + row * ld + first, ld}; }
    A operator[](int64_t r) const { return at[r * ld]; }
    void next() { ++at; }
};

template <class A> struct Transposed {
    const A* at;
    int64_t ld;
    Transposed from(int64_t row, int64_t first, int64_t) const { return {at + first * ld + row, ld}; }
    A operator[](int64_t r) const { return at[r]; }
    void next() { at += ld; }
};

namespace gemm_detail {

// y[r][...] (+)= sum over k of w[r][k] x[k][...], R rows and V registers wide.
template <int R, int V, bool Add, class W, class A>
inline __attribute__((always_inline)) void micro(W w, const A* x, int64_t ldx, A* y, int64_t ldy, int64_t k) {
    using Vec = typename Vector<A>::Type;
    constexpr int64_t step = kGemmVector<A>;
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            sum[r][v] = Add ? *reinterpret_cast<const Vec*>(y + r * ldy + v * step) : Vec{};
    for (int64_t j = 0; j < k; ++j, w.next(), x += ldx) {
        Vec column[V];
        for (int v = 0; v < V; ++v)
            column[v] = *reinterpret_cast<const Vec*>(x + v * step);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v)
                sum[r][v] += w[r] * column[v];
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            *reinterpret_cast<Vec*>(y + r * ldy + v * step) = sum[r][v];
}

template <int V, bool Add, class W, class A>
void block(W w, const A* x, int64_t ldx, A* y, int64_t ldy, int64_t rows, int64_t k) {
    switch (rows) {
    case 1:
        return micro<1, V, Add>(w, x, ldx, y, ldy, k);
    case 2:
        return micro<2, V, Add>(w, x, ldx, y, ldy, k);
    case 3:
        return micro<3, V, Add>(w, x, ldx, y, ldy, k);
    case 4:
        return micro<4, V, Add>(w, x, ldx, y, ldy, k);
    case 5:
        return micro<5, V, Add>(w, x, ldx, y, ldy, k);
    default:
        return micro<6, V, Add>(w, x, ldx, y, ldy, k);
    }
}

template <int V, bool Add, class W, class A, class Done>
inline __attribute__((always_inline)) void columns(W w, const A* x, int64_t ldx, A* y, int64_t ldy, int64_t m,
                                                   int64_t k, Done done) {
    for (int64_t row = 0; row < m; row += kGemmRows) {
        const int64_t rows = m - row < kGemmRows ? m - row : kGemmRows;
        block<V, Add>(w.from(row, 0, k), x, ldx, y + row * ldy, ldy, rows, k);
        for (int64_t r = row; r < row + rows; ++r)
            done(r, y + r * ldy, V * kGemmVector<A>);
    }
}

// The last few columns, fewer than a register holds: through buffers, in stretches of k.
template <bool Add, class W, class A, class Done>
void last_columns(W w, const A* x, int64_t ldx, A* y, int64_t ldy, int64_t m, int64_t k, int64_t n, Done done) {
    constexpr int64_t width = kGemmVector<A>, depth = 128;
    alignas(64) A xs[depth * width], ys[kGemmRows * width];
    for (int64_t row = 0; row < m; row += kGemmRows) {
        const int64_t rows = m - row < kGemmRows ? m - row : kGemmRows;
        for (int64_t i = 0; i < kGemmRows * width; ++i)
            ys[i] = A(0);
        if (Add)
            for (int64_t r = 0; r < rows; ++r)
                copy(y + (row + r) * ldy, ys + r * width, n);
        for (int64_t first = 0; first < k; first += depth) {
            const int64_t stretch = k - first < depth ? k - first : depth;
            for (int64_t j = 0; j < stretch && (row == 0 || k > depth); ++j)
                for (int64_t i = 0; i < width; ++i)
                    xs[j * width + i] = i < n ? x[(first + j) * ldx + i] : A(0);
            block<1, true>(w.from(row, first, k), xs, width, ys, width, rows, stretch);
        }
        for (int64_t r = 0; r < rows; ++r) {
            copy(ys + r * width, y + (row + r) * ldy, n);
            done(row + r, y + (row + r) * ldy, n);
        }
    }
}

struct Nothing {
    template <class A> void operator()(int64_t, A*, int64_t) const {}
};

} // namespace gemm_detail

// y (M, N) = w x, or y += w x with Add. `done(row, y, n)` is called with each finished stretch of a row while it is in
// cache: the place for bias and activation. Neither x nor y is touched outside (K, N) and (M, N).
template <bool Add = false, template <class> class W, class A, class Done = gemm_detail::Nothing>
void gemm(W<A> w, const A* x, int64_t ldx, A* y, int64_t ldy, int64_t m, int64_t k, int64_t n, Done done = {}) {
    int64_t at = 0;
    for (; at + kGemmWidth<A> <= n; at += kGemmWidth<A>)
        gemm_detail::columns<kTileVectors, Add>(w, x + at, ldx, y + at, ldy, m, k, done);
    for (; kTileVectors > 2 && at + 2 * kGemmVector<A> <= n; at += 2 * kGemmVector<A>)
        gemm_detail::columns<2, Add>(w, x + at, ldx, y + at, ldy, m, k, done);
    for (; at + kGemmVector<A> <= n; at += kGemmVector<A>)
        gemm_detail::columns<1, Add>(w, x + at, ldx, y + at, ldy, m, k, done);
    if (at < n)
        gemm_detail::last_columns<Add>(w, x + at, ldx, y + at, ldy, m, k, n - at, done);
}

template <bool Add = false, class A, class Done = gemm_detail::Nothing>
void gemm(const A* packed, const A* x, int64_t ldx, A* y, int64_t ldy, int64_t m, int64_t k, int64_t n,
          Done done = {}) {
    gemm<Add>(Packed<A>{packed}, x, ldx, y, ldy, m, k, n, done);
}

namespace gemm_detail {

#if defined(__AVX512F__)
constexpr int kDotRows = 6, kDotColumns = 4; // accumulators, of 32 registers
#else
constexpr int kDotRows = 4, kDotColumns = 3; // of 16
#endif

template <class A> inline __attribute__((always_inline)) A lane_total(typename Vector<A>::Type lanes) {
    A lane[kGemmVector<A>];
    __builtin_memcpy(lane, &lanes, sizeof lane);
    for (int64_t width = kGemmVector<A> / 2; width > 0; width /= 2)
        for (int64_t l = 0; l < width; ++l)
            lane[l] += lane[l + width];
    return lane[0];
}

} // namespace gemm_detail

// y (M, N) += a (M, K) b (N, K)^T, K along the vectors and a multiple of kGemmVector: weight gradients, where samples
// are what is summed over. Each element is the same sum whatever M and N are. Blocks at the edge repeat their last row.
template <class A>
void gemm_dots(const A* a, int64_t lda, const A* b, int64_t ldb, A* y, int64_t ldy, int64_t m, int64_t n, int64_t k) {
    using namespace gemm_detail;
    using Vec = typename Vector<A>::Type;
    for (int64_t i = 0; i < m; i += kDotRows)
        for (int64_t j = 0; j < n; j += kDotColumns) {
            const A *as[kDotRows], *bs[kDotColumns];
            for (int r = 0; r < kDotRows; ++r)
                as[r] = a + (i + r < m ? i + r : m - 1) * lda;
            for (int c = 0; c < kDotColumns; ++c)
                bs[c] = b + (j + c < n ? j + c : n - 1) * ldb;
            Vec sum[kDotRows][kDotColumns] = {};
            for (int64_t at = 0; at < k; at += kGemmVector<A>) {
                Vec column[kDotColumns];
                for (int c = 0; c < kDotColumns; ++c)
                    column[c] = *reinterpret_cast<const Vec*>(bs[c] + at);
                for (int r = 0; r < kDotRows; ++r) {
                    const Vec row = *reinterpret_cast<const Vec*>(as[r] + at);
                    for (int c = 0; c < kDotColumns; ++c)
                        sum[r][c] += row * column[c];
                }
            }
            for (int r = 0; r < kDotRows && i + r < m; ++r)
                for (int c = 0; c < kDotColumns && j + c < n; ++c)
                    y[(i + r) * ldy + j + c] += lane_total<A>(sum[r][c]);
        }
}

} // namespace
} // namespace pfk::cpu
