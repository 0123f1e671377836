// conv1x1 on the GPU: products of tiles in shared memory. A block makes kColumns columns of up to M channels; columns
// count the positions of all samples in a line, so neighbouring threads read neighbouring addresses of NCHW. Each
// element is a sum over the channels in rising order. The weight gradient is cut into chunks of columns, whose sums a
// second launch adds in order.

#include "../math/conv1x1.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kColumns = 64, kDepth = 16;

// Where a column stands: its sample and its position there.
struct Start {
    int64_t sample;
    unsigned position, positions;

    template <class Index>
    PFK_DEVICE Start(Index column, int64_t positions_)
        : sample(static_cast<int64_t>(column / static_cast<Index>(positions_))),
          position(static_cast<unsigned>(column % static_cast<Index>(positions_))),
          positions(static_cast<unsigned>(positions_)) {}

    // element of channel 0, `further` columns on, in a tensor whose samples lie `stride` apart
    PFK_DEVICE int64_t offset(unsigned further, int64_t stride) const {
        const unsigned at = position + further, samples = at / positions;
        return (sample + samples) * stride + (at - samples * positions);
    }
};

// ---- y = W x -------------------------------------------------------------------------------------------------------

// A thread makes 4 channels of kColumns / lanes columns.
template <class T, int M> __global__ void __launch_bounds__(kThreads) product(const Conv1x1 p) {
    using A = arithmetic_t<T>;
    constexpr int lanes = kThreads / (M / 4), each = kColumns / lanes;
    PFK_SHARED(A, weights, [kDepth][M]);
    PFK_SHARED(A, values, [kDepth][kColumns]);
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t positions = p.positions, columns = p.rows * positions;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kColumns, out = static_cast<int64_t>(blockIdx.y) * M;
    const Start start(static_cast<unsigned>(first), positions); // a long division would be a call
    const bool inside = first + thread % kColumns < columns;
    const T* const x =
        static_cast<const T*>(p.x) + (inside ? start.offset(static_cast<unsigned>(thread % kColumns), p.x_stride) : 0);
    const A* const weight = static_cast<const A*>(p.weight);
    const int64_t row_step = p.transposed ? 1 : p.weight_stride, column_step = p.transposed ? p.weight_stride : 1;
    const int group = thread / lanes * 4, lane = thread % lanes;

    A sum[4][each] = {};
    for (int64_t in = 0; in < p.channels; in += kDepth) {
#pragma unroll
        for (int k = thread / kColumns; k < kDepth; k += kThreads / kColumns)
            values[k][thread % kColumns] = inside && in + k < p.channels ? A(widen(x[(in + k) * positions])) : A(0);
        for (int e = thread; e < kDepth * M; e += kThreads) {
            const int k = e / M, m = e % M;
            const bool there = in + k < p.channels && out + m < p.channels;
            weights[k][m] = there ? weight[(out + m) * row_step + (in + k) * column_step] : A(0);
        }
        __syncthreads();
        const int depth = static_cast<int>(min(static_cast<int64_t>(kDepth), p.channels - in));
        for (int k = 0; k < depth; ++k) {
            A w[4];
#pragma unroll
            for (int r = 0; r < 4; ++r)
                w[r] = weights[k][group + r];
#pragma unroll
            for (int c = 0; c < each; ++c) {
                const A value = values[k][lane + c * lanes];
#pragma unroll
                for (int r = 0; r < 4; ++r)
                    sum[r][c] += w[r] * value;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int c = 0; c < each; ++c) {
        if (first + lane + c * lanes >= columns)
            continue;
        T* const y =
            static_cast<T*>(p.y) + start.offset(static_cast<unsigned>(lane + c * lanes), p.channels * positions);
#pragma unroll
        for (int r = 0; r < 4; ++r)
            if (out + group + r < p.channels) {
                const int64_t channel = out + group + r;
                const A bias = p.bias ? static_cast<const A*>(p.bias)[channel * p.bias_stride] : A(0);
                y[channel * positions] = narrow<T>(sum[r][c] + bias);
            }
    }
}

// ladj = positions * sum of terms, a block for kThreads rows.
template <class A> __global__ void __launch_bounds__(kThreads) log_determinant(const Conv1x1 p) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < p.channels; i += kThreads)
        sum += static_cast<double>(static_cast<const A*>(p.terms)[i * p.terms_stride]);
    sum = block_reduce<kThreads>(sum);
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (row < p.rows)
        static_cast<A*>(p.ladj)[row] = static_cast<A>(static_cast<double>(p.positions) * sum);
}

// ---- dW = dy x^T ---------------------------------------------------------------------------------------------------

// One tile of M x M of one chunk; a thread makes M / 16 channels of either side. Tiles of the first column also sum dy.
template <class T, int M> __global__ void __launch_bounds__(kThreads) partial(const Conv1x1Partial p) {
    using A = arithmetic_t<T>;
    constexpr int side = 16, each = M / side;
    PFK_SHARED(A, dys, [kDepth][M + 1]); // + 1: a column is written by neighbouring threads
    PFK_SHARED(A, xs, [kDepth][M + 1]);
    const int thread = static_cast<int>(threadIdx.x), ty = thread / side, tx = thread % side;
    const int64_t channels = p.channels, positions = p.positions, columns = p.batch * positions;
    const int64_t out = static_cast<int64_t>(blockIdx.y) * M, in = static_cast<int64_t>(blockIdx.z) * M;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * p.chunk, last = min(first + p.chunk, columns);
    const Start start(first, positions);

    A sum[each][each] = {}, row_sum[each] = {};
    for (int64_t at = first; at < last; at += kDepth) {
        const int64_t column = at + thread % kDepth;
        const unsigned further = static_cast<unsigned>(column - first);
        const T* const dy = static_cast<const T*>(p.dy) + start.offset(further, p.dy_stride);
        const T* const x = static_cast<const T*>(p.x) + start.offset(further, p.x_stride);
#pragma unroll
        for (int m = thread / kDepth; m < M; m += kThreads / kDepth) {
            const bool dy_there = column < last && out + m < channels, x_there = column < last && in + m < channels;
            dys[thread % kDepth][m] = dy_there ? A(widen(dy[(out + m) * positions])) : A(0);
            xs[thread % kDepth][m] = x_there ? A(widen(x[(in + m) * positions])) : A(0);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kDepth; ++k)
#pragma unroll
            for (int r = 0; r < each; ++r) {
                const A left = dys[k][ty + r * side];
                row_sum[r] += left;
#pragma unroll
                for (int c = 0; c < each; ++c)
                    sum[r][c] += left * xs[k][tx + c * side];
            }
        __syncthreads();
    }
    A* const sums = static_cast<A*>(p.partial) + static_cast<int64_t>(blockIdx.x) * partial_size(channels);
#pragma unroll
    for (int r = 0; r < each; ++r) {
        const int64_t i = out + ty + r * side;
        if (i >= channels)
            continue;
        if (in == 0 && tx == 0)
            sums[channels * channels + i] = row_sum[r];
#pragma unroll
        for (int c = 0; c < each; ++c)
            if (in + tx + c * side < channels)
                sums[i * channels + in + tx + c * side] = sum[r][c];
    }
}

// A thread an element of dweight or dbias; the last block is for dterms.
template <class A> __global__ void __launch_bounds__(kThreads) reduce(const Conv1x1Reduce p) {
    const int64_t channels = p.rows, size = partial_size(channels);
    if (blockIdx.x == gridDim.x - 1) {
        double sum = 0;
        for (int64_t row = threadIdx.x; row < p.batch; row += kThreads)
            sum += static_cast<double>(static_cast<const A*>(p.dladj)[row * p.dladj_stride]);
        sum = block_reduce<kThreads>(sum);
        for (int64_t i = threadIdx.x; i < channels; i += kThreads)
            static_cast<A*>(p.dterms)[i] = static_cast<A>(static_cast<double>(p.positions) * sum);
        return;
    }
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (at >= size)
        return;
    A sum = 0;
    for (int64_t chunk = 0; chunk < p.chunks; ++chunk)
        sum += static_cast<const A*>(p.partial)[chunk * size + at];
    if (at < channels * channels)
        static_cast<A*>(p.dweight)[at] = sum;
    else if (p.dbias)
        static_cast<A*>(p.dbias)[at - channels * channels] = sum;
}

// ---- from run-time choices to templates ----------------------------------------------------------------------------

constexpr int64_t kMostPositions = int64_t(1) << 31; // of one sample, so that a step within it fits 32 bits

unsigned pieces(int64_t n, int64_t size) { return static_cast<unsigned>((n + size - 1) / size); }

} // namespace

Error conv1x1(const Conv1x1& p, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    if (p.rows == 0)
        return cudaSuccess;
    if (p.positions >= kMostPositions)
        return cudaErrorInvalidValue;
    return with_type(p.state, [&](auto type) {
        using T = typename decltype(type)::type;
        const int64_t size = p.channels * p.positions;
        const int64_t most = size > 0 ? (kMostPositions - 1) / p.positions : p.rows; // samples of one launch
        for (int64_t row = 0; row < p.rows && size > 0; row += most) {
            Conv1x1 part = p;
            part.rows = p.rows - row < most ? p.rows - row : most;
            part.x = static_cast<const T*>(p.x) + row * p.x_stride;
            part.y = static_cast<T*>(p.y) + row * size;
            const unsigned columns = pieces(part.rows * p.positions, kColumns);
            const dim3 tiles(columns, pieces(p.channels, 64));
            cudaError_t error;
            if constexpr (sizeof(T) < sizeof(double)) // in double the narrow form would spill
                error = p.channels <= 16 ? launch(product<T, 16>, columns, kThreads, 0, on, part)
                                         : launch(product<T, 64>, tiles, kThreads, 0, on, part);
            else
                error = launch(product<T, 64>, tiles, kThreads, 0, on, part);
            if (error != cudaSuccess)
                return error;
        }
        if (p.terms == nullptr)
            return cudaSuccess;
        return launch(log_determinant<arithmetic_t<T>>, pieces(p.rows, kThreads), kThreads, 0, on, p);
    });
}

Error conv1x1_partial(const Conv1x1Partial& p, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    if (p.rows == 0 || p.channels == 0)
        return cudaSuccess;
    return with_type(p.state, [&](auto type) {
        using T = typename decltype(type)::type;
        const auto chunks = static_cast<unsigned>(p.rows);
        if (p.channels <= 16)
            return launch(partial<T, 16>, chunks, kThreads, 0, on, p);
        const unsigned tiles = pieces(p.channels, 64);
        return launch(partial<T, 64>, dim3(chunks, tiles, tiles), kThreads, 0, on, p);
    });
}

Error conv1x1_reduce(const Conv1x1Reduce& p, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    if (p.rows == 0)
        return cudaSuccess;
    const unsigned blocks = pieces(partial_size(p.rows), kThreads) + 1;
    return p.state == DType::F64 ? launch(reduce<double>, blocks, kThreads, 0, on, p)
                                 : launch(reduce<float>, blocks, kThreads, 0, on, p);
}

} // namespace pfk::cuda
