// conv1x1 on the CPU. Where positions fill registers, the product runs on x and y as they lie; small images and 16-bit
// types are staged through tiles of kColumns columns, several samples side by side. Without positions the channels lie
// side by side: y = x W^T, with the rows of x in the place of those of W.

#include "../math/conv1x1.h"
#include "gemm.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kRows = 96, kDepth = 128, kColumns = 64; // of a block of W, and of a staged tile
constexpr int64_t kStaged = 8192, kSide = 64;              // elements and channels that the weight gradient stages
constexpr int64_t kWide = 128, kStep = kWide + kLanes;     // columns of a tile of vectors, and from row to row of it:
                                                           // a power of two would crowd into few sets of the cache

template <class T, class A> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;

// The (C, columns) matrix behind (B, C, P): column c is position c % P of sample c / P.
template <class T> struct Columns {
    T* data;
    int64_t stride, positions;

    // piece(first column in the tile, element of channel 0, length): runs of neighbours
    template <class Piece> void runs(int64_t first, int64_t n, Piece piece) const {
        int64_t sample = first / positions, position = first % positions;
        for (int64_t at = 0; at < n; ++sample, position = 0) {
            const int64_t left = positions - position, length = left < n - at ? left : n - at;
            piece(at, data + sample * stride + position, length);
            at += length;
        }
    }
};

// tile[channel * ld + column]; columns up to a multiple of `fill` are zero.
template <class T, class A>
void stage(const Columns<const T>& x, int64_t channel, int64_t channels, int64_t first, int64_t n, A* tile, int64_t ld,
           int64_t fill) {
    const int64_t padded = (n + fill - 1) / fill * fill;
    x.runs(first, n, [&](int64_t at, const T* from, int64_t length) {
        for (int64_t c = 0; c < channels; ++c)
            gather(from + (channel + c) * x.positions, 1, tile + c * ld + at, length);
    });
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t j = n; j < padded; ++j)
            tile[c * ld + j] = A(0);
}

template <class T, class A>
void unstage(const A* tile, int64_t ld, const Columns<T>& y, int64_t channel, int64_t channels, int64_t first,
             int64_t n) {
    y.runs(first, n, [&](int64_t at, T* to, int64_t length) {
        for (int64_t c = 0; c < channels; ++c)
            scatter(tile + c * ld + at, to + (channel + c) * y.positions, 1, length);
    });
}

template <class A> void log_determinants(const Conv1x1& p, int64_t begin, int64_t end) {
    if (p.terms == nullptr)
        return;
    double total = 0;
    for (int64_t i = 0; i < p.channels; ++i)
        total += static_cast<const A*>(p.terms)[i * p.terms_stride];
    for (int64_t row = begin; row < end; ++row)
        static_cast<A*>(p.ladj)[row] = static_cast<A>(static_cast<double>(p.positions) * total);
}

template <class T, class A> void forward_vectors(const Conv1x1& p, int64_t begin, int64_t end) {
    const int64_t channels = p.channels;
    const A *weight = static_cast<const A*>(p.weight), *bias = static_cast<const A*>(p.bias);
    const int64_t out_step = p.transposed ? 1 : p.weight_stride, in_step = p.transposed ? p.weight_stride : 1;
    alignas(64) A transposed[kDepth * kStep];
    alignas(64) A packed[same<T, A> ? 1 : packed_size(kRows, kDepth)], ys[same<T, A> ? 1 : kRows * kWide];
    const bool one_tile = channels <= kDepth && channels <= kWide;
    bool filled = false;
    constexpr int64_t most = same<T, A> ? 4 * kRows : kRows;
    for (int64_t row = begin; row < end; row += most) {
        const int64_t rows = end - row < most ? end - row : most;
        for (int64_t out = 0; out < channels; out += kWide) {
            const int64_t columns = channels - out < kWide ? channels - out : kWide;
            A* to = ys;
            int64_t ld = kWide;
            T* const y = static_cast<T*>(p.y) + row * channels + out;
            if constexpr (same<T, A>)
                to = y, ld = channels;
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t j = 0; j < columns; ++j)
                    to[r * ld + j] = bias == nullptr ? A(0) : bias[(out + j) * p.bias_stride];
            for (int64_t in = 0; in < channels; in += kDepth) {
                const int64_t depth = channels - in < kDepth ? channels - in : kDepth;
                for (int64_t k = 0; k < depth && !filled; ++k)
                    for (int64_t j = 0; j < columns; ++j)
                        transposed[k * kStep + j] = weight[(out + j) * out_step + (in + k) * in_step];
                filled = one_tile;
                const T* x = static_cast<const T*>(p.x) + row * p.x_stride + in;
                if constexpr (same<T, A>)
                    gemm<true>(Rows<A>{x, p.x_stride}, transposed, kStep, to, ld, rows, depth, columns);
                else {
                    pack(x, p.x_stride, 1, rows, depth, packed);
                    gemm<true>(packed, transposed, kStep, to, ld, rows, depth, columns);
                }
            }
            if constexpr (!same<T, A>)
                for (int64_t r = 0; r < rows; ++r)
                    scatter(ys + r * kWide, y + r * channels, 1, columns);
        }
    }
}

template <class T, class A> void forward(const Conv1x1& p, int64_t begin, int64_t end) {
    const int64_t channels = p.channels, positions = p.positions, size = channels * positions;
    const A *weight = static_cast<const A*>(p.weight), *bias = static_cast<const A*>(p.bias);
    const int64_t row_step = p.transposed ? 1 : p.weight_stride, column_step = p.transposed ? p.weight_stride : 1;
    const Columns<const T> x{static_cast<const T*>(p.x), p.x_stride, positions};
    const Columns<T> y{static_cast<T*>(p.y), size, positions};
    const bool direct = same<T, A> && (positions % kGemmVector<A> == 0 || positions >= 4 * kColumns);
    const int64_t columns = direct ? positions : kColumns, first = begin * positions, last = end * positions;
    alignas(64) A packed[packed_size(kRows, kDepth)], xs[kDepth * kColumns], ys[kRows * kColumns];

    for (int64_t out = 0; out < channels && positions > 0; out += kRows) {
        const int64_t rows = channels - out < kRows ? channels - out : kRows;
        const auto add_bias = [&](int64_t row, A* values, int64_t n) {
            if (bias == nullptr)
                return;
            const A value = bias[(out + row) * p.bias_stride];
            for (int64_t i = 0; i < n; ++i)
                values[i] += value;
        };
        const auto pack_block = [&](int64_t in, int64_t depth) {
            pack(weight + out * row_step + in * column_step, row_step, column_step, rows, depth, packed);
        };
        if (channels <= kDepth)
            pack_block(0, channels);
        for (int64_t at = first; at < last; at += columns) {
            const int64_t n = last - at < columns ? last - at : columns;
            for (int64_t in = 0; in < channels; in += kDepth) {
                const int64_t depth = channels - in < kDepth ? channels - in : kDepth;
                if (channels > kDepth)
                    pack_block(in, depth);
                const A* from = xs;
                A* to = ys;
                int64_t from_step = kColumns, to_step = kColumns;
                if constexpr (same<T, A>)
                    if (direct) {
                        const int64_t row = at / positions;
                        from = x.data + row * x.stride + in * positions;
                        to = y.data + row * size + out * positions;
                        from_step = to_step = positions;
                    }
                if (!direct)
                    stage(x, in, depth, at, n, xs, kColumns, kGemmVector<A>);
                const int64_t whole = direct ? n : (n + kGemmVector<A> - 1) / kGemmVector<A> * kGemmVector<A>;
                const bool finished = in + depth == channels;
                const auto done = [&](int64_t row, A* values, int64_t length) {
                    if (finished)
                        add_bias(row, values, length);
                };
                in == 0 ? gemm<false>(packed, from, from_step, to, to_step, rows, depth, whole, done)
                        : gemm<true>(packed, from, from_step, to, to_step, rows, depth, whole, done);
            }
            if (!direct)
                unstage(ys, kColumns, y, out, rows, at, n);
        }
    }
}

// sums += dy^T x over the rows [first, last), the bias's after the weight's.
template <class T, class A> void partial_vectors(const Conv1x1Partial& p, int64_t first, int64_t last, A* sums) {
    const int64_t channels = p.channels;
    alignas(64) A packed[packed_size(kRows, kDepth)], xs[same<T, A> ? 1 : kDepth * kWide];
    for (int64_t row = first; row < last; row += kDepth) {
        const int64_t rows = last - row < kDepth ? last - row : kDepth;
        const T *x = static_cast<const T*>(p.x) + row * p.x_stride,
                *dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < channels; ++c)
                sums[channels * channels + c] += load<A>(dy[r * p.dy_stride + c]);
        for (int64_t in = 0; in < channels; in += kWide) {
            const int64_t columns = channels - in < kWide ? channels - in : kWide;
            const A* from = xs;
            int64_t ld = kWide;
            if constexpr (same<T, A>)
                from = x + in, ld = p.x_stride;
            else
                for (int64_t r = 0; r < rows; ++r)
                    gather(x + r * p.x_stride + in, 1, xs + r * kWide, columns);
            for (int64_t out = 0; out < channels; out += kRows) {
                const int64_t m = channels - out < kRows ? channels - out : kRows;
                pack(dy + out, 1, p.dy_stride, m, rows, packed);
                gemm<true>(packed, from, ld, sums + out * channels + in, channels, m, rows, columns);
            }
        }
    }
}

template <class T, class A> void partial(const Conv1x1Partial& p, int64_t begin, int64_t end) {
    const int64_t channels = p.channels, size = partial_size(channels), every = p.batch * p.positions;
    const Columns<const T> x{static_cast<const T*>(p.x), p.x_stride, p.positions};
    const Columns<const T> dy{static_cast<const T*>(p.dy), p.dy_stride, p.positions};
    const int64_t side = channels < kSide ? channels : kSide;
    const int64_t columns = kStaged / (side < 16 ? 16 : side) / kLanes * kLanes;
    alignas(64) A xs[kStaged], dys[kStaged];
    for (int64_t c = begin; c < end; ++c) {
        const int64_t first = c * p.chunk, last = first + p.chunk < every ? first + p.chunk : every;
        A* const sums = static_cast<A*>(p.partial) + c * size;
        for (int64_t i = 0; i < size; ++i)
            sums[i] = A(0);
        if (p.positions == 1) {
            partial_vectors<T, A>(p, first, last, sums);
            continue;
        }
        for (int64_t at = first; at < last; at += columns) {
            const int64_t n = last - at < columns ? last - at : columns;
            const int64_t padded = (n + kGemmVector<A> - 1) / kGemmVector<A> * kGemmVector<A>;
            for (int64_t out = 0; out < channels; out += kSide) {
                const int64_t rows = channels - out < kSide ? channels - out : kSide;
                stage(dy, out, rows, at, n, dys, columns, kGemmVector<A>);
                for (int64_t i = 0; i < rows; ++i) {
                    typename Vector<A>::Type lanes = {};
                    for (int64_t j = 0; j < padded; j += kGemmVector<A>)
                        lanes += *reinterpret_cast<const typename Vector<A>::Type*>(dys + i * columns + j);
                    sums[channels * channels + out + i] += gemm_detail::lane_total<A>(lanes);
                }
                for (int64_t in = 0; in < channels; in += kSide) {
                    const int64_t depth = channels - in < kSide ? channels - in : kSide;
                    stage(x, in, depth, at, n, xs, columns, kGemmVector<A>);
                    gemm_dots(dys, columns, xs, columns, sums + out * channels + in, channels, rows, depth, padded);
                }
            }
        }
    }
}

template <class A> void reduce(const Conv1x1Reduce& p, int64_t begin, int64_t end) {
    const int64_t channels = p.rows, size = partial_size(channels);
    const A* const partial = static_cast<const A*>(p.partial);
    double dladj = 0;
    for (int64_t row = 0; row < p.batch; ++row)
        dladj += static_cast<const A*>(p.dladj)[row * p.dladj_stride];
    for (int64_t i = begin; i < end; ++i) {
        A* const dweight = static_cast<A*>(p.dweight) + i * channels;
        for (int64_t j = 0; j < channels; ++j)
            dweight[j] = A(0);
        A dbias = 0;
        for (int64_t c = 0; c < p.chunks; ++c) {
            for (int64_t j = 0; j < channels; ++j)
                dweight[j] += partial[c * size + i * channels + j];
            dbias += partial[c * size + channels * channels + i];
        }
        if (p.dbias != nullptr)
            static_cast<A*>(p.dbias)[i] = dbias;
        static_cast<A*>(p.dterms)[i] = static_cast<A>(static_cast<double>(p.positions) * dladj);
    }
}

} // namespace

namespace PFK_ISA {

void conv1x1(const Conv1x1& p, int64_t begin, int64_t end) {
    with_types(p.state, [&](auto state, auto sum) {
        using T = decltype(state);
        using A = decltype(sum);
        log_determinants<A>(p, begin, end);
        p.positions == 1 ? forward_vectors<T, A>(p, begin, end) : forward<T, A>(p, begin, end);
    });
}

void conv1x1_partial(const Conv1x1Partial& p, int64_t begin, int64_t end) {
    with_types(p.state, [&](auto state, auto sum) { partial<decltype(state), decltype(sum)>(p, begin, end); });
}

void conv1x1_reduce(const Conv1x1Reduce& p, int64_t begin, int64_t end) {
    p.state == DType::F64 ? reduce<double>(p, begin, end) : reduce<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
