// Matrix products by one block for the kernels that walk a small network by panels of samples: both factors pass
// through shared memory, and each element is the sum over its terms in their order.
#pragma once

#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / warp_size; // of a block

constexpr int kStretch = 16, kSide = kThreads / kStretch; // terms of a sum at a time; threads beside each other then
constexpr int kAcross = 16, kAcrossFew = 8;               // threads along the columns; along those of a narrow product
constexpr int kMostRows = 4, kMostVectors = 2;            // of a thread; a vector is two neighbouring columns
constexpr int kMostColumns = 2 * kAcross * kMostVectors;  // of a tile
template <class A> constexpr int kRowsOfNarrow = sizeof(A) == sizeof(double) ? 2 : 4; // of a thread: 48 KiB a block
template <class A> constexpr int kMostLines = kThreads / kAcrossFew * kRowsOfNarrow<A>;

// Four more elements a line spread it over the banks.
template <class A> struct alignas(16) Factors {
    A left[2][kStretch][kMostLines<A> + 4], right[2][kStretch][kMostColumns + 4];
};

// One factor on its way through shared memory, `Each` elements a thread of a stretch of 16 Each lines (rows of the
// product, or columns). Along: the terms of a line are neighbours in memory, else the lines are.
template <bool Along, int Each, class A> struct Passage {
    const A* from;
    int64_t jump, advance, lines;
    int line, term;
    A next[Each];

    PFK_DEVICE Passage(const A* data, int64_t line_step, int64_t term_step, int64_t count)
        : jump(Along ? kSide * line_step : kStretch / Each * term_step), advance(kStretch * term_step), lines(count) {
        const int thread = static_cast<int>(threadIdx.x);
        line = Along ? thread / kStretch : thread % (kSide * Each);
        term = Along ? thread % kStretch : thread / (kSide * Each);
        from = data + line * line_step + term * term_step;
    }
    PFK_DEVICE int line_of(int i) const { return Along ? line + kSide * i : line; }
    PFK_DEVICE int term_of(int i) const { return Along ? term : term + kStretch / Each * i; }

    PFK_DEVICE void fetch(int64_t terms) {
#pragma unroll
        for (int i = 0; i < Each; ++i)
            next[i] = line_of(i) < lines && term_of(i) < terms ? from[i * jump] : A(0);
        from += advance;
    }
    template <int Line> PFK_DEVICE void put(A (*to)[Line]) const {
#pragma unroll
        for (int i = 0; i < Each; ++i)
            to[term_of(i)][line_of(i)] = next[i];
    }
};

template <int N, class A> PFK_DEVICE void read_shared(const A* from, A* to) {
    constexpr int width = N < vector_width<A> ? N : vector_width<A>;
#pragma unroll
    for (int i = 0; i < N; i += width) {
        const Vec<A, width> v = vload<width>(from + i);
#pragma unroll
        for (int j = 0; j < width; ++j)
            to[i + j] = v[j];
    }
}

// A matrix: element (line, term) at data[line line_step + term term_step].
template <class A> struct Factor {
    const A* data;
    int64_t line_step, term_step;
};

// A tile of left right^T, of R rows and V vectors a thread: each element is the sum over `terms` in their order;
// done(row, column, its element, the next one) takes what is in `rows`, the columns it wants. Every thread must come;
// what others wrote before is seen, what `done` writes is not yet.
template <bool LeftAlong, bool RightAlong, int Across, int R, int V, class A, class Done>
PFK_DEVICE void product(Factors<A>& shared, Factor<A> left, int64_t rows, Factor<A> right, int64_t columns,
                        int64_t terms, Done done) {
    Passage<LeftAlong, kThreads / Across * R / kSide, A> lefts(left.data, left.line_step, left.term_step, rows);
    Passage<RightAlong, 2 * Across * V / kSide, A> rights(right.data, right.line_step, right.term_step, columns);
    const int row = static_cast<int>(threadIdx.x) / Across * R, column = static_cast<int>(threadIdx.x) % Across * 2;
    A sum[R][2 * V] = {};
    int buffer = 0;
    __syncthreads(); // the factors are written, and shared memory is free
    lefts.fetch(terms);
    rights.fetch(terms);
    lefts.put(shared.left[0]);
    rights.put(shared.right[0]);
    __syncthreads();
    for (int64_t ahead = terms; ahead > 0; ahead -= kStretch) {
        const bool more = ahead > kStretch;
        if (more) {
            lefts.fetch(ahead - kStretch);
            rights.fetch(ahead - kStretch);
        }
        const int stretch = row >= rows ? 0 : more ? kStretch : static_cast<int>(ahead);
#pragma unroll 4
        for (int k = 0; k < stretch; ++k) {
            A l[R], r[2 * V];
            read_shared<R>(&shared.left[buffer][k][row], l);
#pragma unroll
            for (int v = 0; v < V; ++v)
                read_shared<2>(&shared.right[buffer][k][column + 2 * Across * v], r + 2 * v);
#pragma unroll
            for (int i = 0; i < R; ++i)
#pragma unroll
                for (int j = 0; j < 2 * V; ++j)
                    sum[i][j] += l[i] * r[j];
        }
        if (!more)
            break;
        buffer ^= 1;
        lefts.put(shared.left[buffer]);
        rights.put(shared.right[buffer]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int v = 0; v < V; ++v)
            if (row + i < rows)
                done(row + i, column + 2 * Across * v, sum[i][2 * v], sum[i][2 * v + 1]);
}

// done(row, column, element, the next one) for all of left right^T, and for columns of no meaning up to a tile's end.
template <bool LeftAlong, bool RightAlong, int R, class A, class Done>
PFK_DEVICE void tiles(Factors<A>& shared, Factor<A> left, int64_t rows, Factor<A> right, int64_t columns, int64_t terms,
                      Done done) {
    for (int64_t row = 0; row < rows; row += kThreads / kAcross * R) {
        const Factor<A> l = {left.data + row * left.line_step, left.line_step, left.term_step};
        for (int64_t column = 0; column < columns; column += kMostColumns) {
            const Factor<A> r = {right.data + column * right.line_step, right.line_step, right.term_step};
            const auto there = [&](int i, int j, A a, A b) { done(row + i, column + j, a, b); };
            if (columns - column > 2 * kAcross)
                product<LeftAlong, RightAlong, kAcross, R, 2>(shared, l, rows - row, r, columns - column, terms, there);
            else
                product<LeftAlong, RightAlong, kAcross, R, 1>(shared, l, rows - row, r, columns - column, terms, there);
        }
    }
}

// The same for few columns and many rows.
template <bool LeftAlong, bool RightAlong, class A, class Done>
PFK_DEVICE void narrow_tiles(Factors<A>& shared, Factor<A> left, int64_t rows, Factor<A> right, int64_t columns,
                             int64_t terms, Done done) {
    for (int64_t row = 0; row < rows; row += kMostLines<A>) {
        const Factor<A> l = {left.data + row * left.line_step, left.line_step, left.term_step};
        product<LeftAlong, RightAlong, kAcrossFew, kRowsOfNarrow<A>, 1>(
            shared, l, rows - row, right, columns, terms, [&](int i, int j, A a, A b) { done(row + i, j, a, b); });
    }
}

// The same in tiles that fit.
template <bool LeftAlong, bool RightAlong, class A, class Done>
PFK_DEVICE void multiply(Factors<A>& shared, Factor<A> left, int64_t rows, Factor<A> right, int64_t columns,
                         int64_t terms, Done done) {
    if (rows <= kAcross)
        tiles<LeftAlong, RightAlong, 1>(shared, left, rows, right, columns, terms, done);
    else if (columns <= 2 * kAcrossFew)
        narrow_tiles<LeftAlong, RightAlong>(shared, left, rows, right, columns, terms, done);
    else
        tiles<LeftAlong, RightAlong, kMostRows>(shared, left, rows, right, columns, terms, done);
}

// Calls body(Type<arithmetic>).
template <class Body> cudaError_t with_arithmetic(DType type, Body body) {
    return type == DType::F64 ? body(Type<double>{}) : body(Type<float>{});
}

} // namespace
} // namespace pfk::cuda
