// sinkhorn on the GPU: nothing of the plan is kept; a step is a launch over the sources, one over the targets, and one
// of a block for each problem, which judges, mixes and cools. Problems that are done are left alone, so that many steps
// may be launched before anybody looks.

#include "../math/sinkhorn.h"
#include "device.cuh"

namespace pfk::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / warp_size;

// What a problem has of scratch memory: vectors over its targets, the last over sources or targets; then `kNumbers`.
enum Vectors { kResidual, kLastResidual, kLastStep, kChanges, kMoves = kChanges + kMemory, kApart = kMoves + kMemory };
enum Numbers { kProducts, kRemembered = kProducts + kMemory * kMemory, kKnown, kNumbers };

template <class A> PFK_HD int64_t doubles(const Sinkhorn& p) {
    const int64_t longest = p.sources > p.targets ? p.sources : p.targets;
    return kNumbers + ((kApart * p.targets + longest) * static_cast<int64_t>(sizeof(A)) + 7) / 8;
}

template <class A> struct Problem {
    const A *a, *b;
    A *f, *g, *vectors;
    double *state, *numbers;
    int64_t targets;

    PFK_DEVICE Problem(const Sinkhorn& p, int64_t row)
        : a(static_cast<const A*>(p.a) + row * p.a_stride), b(static_cast<const A*>(p.b) + row * p.b_stride),
          f(static_cast<A*>(p.f) + row * p.sources), g(static_cast<A*>(p.g) + row * p.targets),
          state(p.state + row * kSinkhornState), numbers(p.scratch + row * doubles<A>(p)), targets(p.targets) {
        vectors = reinterpret_cast<A*>(numbers + kNumbers);
    }
    PFK_DEVICE A* vector(int which) const { return vectors + which * targets; }
};

template <class T, class P> PFK_DEVICE arithmetic_t<T> cost(const P& p, int64_t row, int64_t i, int64_t j) {
    using A = arithmetic_t<T>;
    const T* const x0 = static_cast<const T*>(p.x0) + row * p.x0_stride;
    if (p.given)
        return widen(x0[i * p.targets + j]);
    const T *x = x0 + i * p.size, *y = static_cast<const T*>(p.x1) + row * p.x1_stride + j * p.size;
    A sum = 0;
    for (int64_t d = 0; d < p.size; ++d) {
        const A apart = widen(y[d]) - widen(x[d]);
        sum += apart * apart;
    }
    return sum;
}

struct Smaller {
    template <class A> PFK_DEVICE A operator()(A a, A b) const { return b < a ? b : a; }
};

// Copies what was there before, and forgets the steps before this call.
template <class A> __global__ void __launch_bounds__(kThreads) open(const Sinkhorn p) {
    const int64_t row = blockIdx.x;
    const int thread = static_cast<int>(threadIdx.x);
    const Problem<A> problem(p, row);
    const double* const state = p.state0 + row * p.state0_stride;
    const bool fresh = state[kReg] == 0;
    for (int64_t i = thread; i < p.sources; i += kThreads)
        problem.f[i] = static_cast<const A*>(p.f0)[row * p.f0_stride + i];
    for (int64_t j = thread; j < p.targets; j += kThreads)
        problem.g[j] = fresh ? A(0) : static_cast<const A*>(p.g0)[row * p.g0_stride + j];
    for (int i = thread; i < kSinkhornState; i += kThreads)
        problem.state[i] = state[i];
    for (int i = thread; i < kNumbers; i += kThreads)
        problem.numbers[i] = 0;
}

// Takes the sources, a warp each with its lanes along the targets, or, Down, the targets, a lane each with the warps of
// a block along the sources: the c-transforms at the start, or the sums of a step.
template <bool Down, bool Start, class T> __global__ void __launch_bounds__(kThreads) visit(const Sinkhorn p) {
    using A = arithmetic_t<T>;
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
    const int64_t outputs = Down ? p.targets : p.sources, terms = Down ? p.sources : p.targets;
    const int64_t each = Down ? warp_size : kWarps, blocks = (outputs + each - 1) / each;
    const int64_t row = blockIdx.x / blocks, output = (blockIdx.x % blocks) * each + (Down ? lane : warp);
    const Problem<A> problem(p, row);
    if (Start ? problem.state[kReg] != 0 : problem.state[kDone] != 0) // a whole block
        return;
    const A reg = Start ? A(1) : static_cast<A>(problem.state[kReg]), inverse = A(1) / reg;
    const A infinity = static_cast<A>(__builtin_huge_val()), most = sizeof(A) == 4 ? A(80) : A(700);
    A found = Start ? infinity : A(0), largest = -infinity;
    if (output < outputs)
        for (int64_t k = Down ? warp : lane; k < terms; k += Down ? kWarps : warp_size) {
            const int64_t i = Down ? k : output, j = Down ? output : k;
            const A c = cost<T>(p, row, i, j);
            if (Start) {
                const A left = c - (Down ? problem.f[i] : problem.g[j]);
                found = left < found ? left : found;
                largest = c > largest && c < infinity ? c : largest;
            } else {
                const A exponent = (problem.f[i] - c + problem.g[j]) * inverse;
                found += (Down ? problem.a[i] : problem.b[j]) * exp(exponent > most ? most : exponent);
            }
        }
    if constexpr (Down) {
        PFK_SHARED(A, parts, [kWarps][warp_size]);
        parts[warp][lane] = found;
        __syncthreads();
        if (warp > 0 || output >= outputs)
            return;
#pragma unroll
        for (int w = 1; w < kWarps; ++w)
            found = Start ? Smaller()(found, parts[w][lane]) : found + parts[w][lane];
        if (Start) {
            problem.g[output] = found;
            return;
        }
        const A g = problem.g[output], b = problem.b[output], relax = static_cast<A>(relax_of(reg, p.reg_m));
        const A due = exp(-g * static_cast<A>(1 / p.reg_m));
        problem.vector(kResidual)[output] = scaling_of(found, g * inverse, relax);
        problem.vector(kApart)[output] = detail::magnitude(b * found - b * due);
    } else {
        found = Start ? warp_reduce(found, Smaller()) : warp_reduce(found);
        largest = warp_reduce(largest, Larger());
        __syncwarp(); // all lanes have read f
        if (lane > 0 || output >= outputs)
            return;
        const A f = problem.f[output], relax = static_cast<A>(relax_of(reg, p.reg_m));
        problem.f[output] = Start ? found : f + reg * scaling_of(found, f * inverse, relax);
        if (Start)
            problem.vector(kApart)[output] = largest - found;
    }
}

// The first reg, from how far the costs of a source are apart at most.
template <class A> __global__ void __launch_bounds__(kThreads) warm(const Sinkhorn p) {
    const Problem<A> problem(p, blockIdx.x);
    if (problem.state[kReg] != 0)
        return;
    A apart = 0;
    for (int64_t i = threadIdx.x; i < p.sources; i += kThreads)
        apart = Larger()(apart, problem.vector(kApart)[i]);
    apart = block_reduce<kThreads>(apart, Larger());
    if (threadIdx.x == 0)
        begin_sinkhorn(problem.state, static_cast<double>(apart), p.reg, static_cast<double>(p.most));
}

// The sum of part(j) over the targets, the same in every thread.
template <class Part> PFK_DEVICE double total(int64_t targets, Part part) {
    double sum = 0;
    for (int64_t j = threadIdx.x; j < targets; j += kThreads)
        sum += part(j);
    return block_reduce<kThreads>(sum);
}

// Judges the error, and takes a step of g: mixed with what the last ones have brought, or a plain one.
template <class A> __global__ void __launch_bounds__(kThreads, 1) mix(const Sinkhorn p) {
    const Problem<A> problem(p, blockIdx.x);
    const int thread = static_cast<int>(threadIdx.x);
    double *const state = problem.state, *const numbers = problem.numbers;
    if (state[kDone] != 0)
        return;
    const double most = static_cast<double>(p.most), reg = state[kReg];
    A *const residual = problem.vector(kResidual), *const before = problem.vector(kLastResidual);
    A *const step = problem.vector(kLastStep), *const changes = problem.vector(kChanges);
    A *const moves = problem.vector(kMoves), *const apart = problem.vector(kApart);
    const double mass = total(p.targets, [&](int64_t j) { return static_cast<double>(problem.b[j]); });
    const double sum = total(p.targets, [&](int64_t j) { return static_cast<double>(apart[j]); });
    const double error = mass > 0 ? sum / mass : sum;
    PFK_SHARED(bool, goes, [3]); // on, mixed, cools
    PFK_SHARED(double, gram, [kMemory * kMemory]);
    PFK_SHARED(double, x, [kMemory]);
    if (thread == 0) {
        goes[0] = goes_on(state, error, p.reg, p.tolerance, most);
        goes[1] = goes[0] && may_mix(state);
        if (!goes[1])
            numbers[kRemembered] = numbers[kKnown] = 0;
    }
    __syncthreads();
    if (!goes[0]) {
        if (!(error == error)) {
            for (int64_t i = thread; i < p.sources; i += kThreads)
                problem.f[i] = static_cast<A>(error);
            for (int64_t j = thread; j < p.targets; j += kThreads)
                problem.g[j] = static_cast<A>(error);
        }
        return;
    }
    const bool known = numbers[kKnown] != 0;
    const int64_t remembered = static_cast<int64_t>(numbers[kRemembered]) + (known ? 1 : 0);
    const int slot = static_cast<int>((remembered + kMemory - 1) % kMemory);
    const int count = static_cast<int>(remembered < kMemory ? remembered : kMemory);
    if (known)
        for (int64_t j = thread; j < p.targets; j += kThreads) {
            const A change = residual[j] - before[j];
            changes[slot * p.targets + j] = change;
            moves[slot * p.targets + j] = step[j] + change;
        }
    for (int k = 0; k < count; ++k) { // a thread reads what it wrote
        const double of_residual = total(p.targets, [&](int64_t j) {
            return static_cast<double>(changes[k * p.targets + j]) * static_cast<double>(residual[j]);
        });
        const double of_change = total(p.targets, [&](int64_t j) {
            return static_cast<double>(changes[k * p.targets + j]) * static_cast<double>(changes[slot * p.targets + j]);
        });
        if (thread == 0) {
            x[k] = of_residual;
            if (known)
                numbers[kProducts + k * kMemory + slot] = numbers[kProducts + slot * kMemory + k] = of_change;
        }
    }
    if (thread == 0) {
        for (int k = 0; k < kMemory * kMemory; ++k)
            gram[k] = numbers[kProducts + k];
        solve_mixing(gram, x, count);
    }
    __syncthreads();
    const double size = total(p.targets, [&](int64_t j) {
        A mixed = residual[j];
        for (int k = 0; k < count; ++k)
            mixed -= static_cast<A>(x[k]) * moves[k * p.targets + j];
        step[j] = mixed;
        return static_cast<double>(mixed) * static_cast<double>(mixed);
    });
    const bool plain = !(size < 1e300); // or NaN
    const double common = total(p.targets, [&](int64_t j) {
        const A limit = A(kFurthest), taken = plain ? residual[j] : step[j];
        step[j] = taken;
        before[j] = residual[j];
        problem.g[j] += static_cast<A>(reg) * (taken > limit ? limit : taken < -limit ? -limit : taken);
        return static_cast<double>(problem.g[j]);
    });
    if (p.reg_m > 1e300) { // what all of g have in common f takes back: left to itself it would wander off
        const A shift = static_cast<A>(common / static_cast<double>(p.targets));
        for (int64_t i = thread; i < p.sources; i += kThreads)
            problem.f[i] += shift;
        for (int64_t j = thread; j < p.targets; j += kThreads)
            problem.g[j] -= shift;
    }
    if (thread == 0) {
        const bool cooled = cools(state, p.reg, most);
        numbers[kKnown] = cooled ? 0 : 1;
        numbers[kRemembered] = cooled ? 0 : static_cast<double>(remembered);
    }
}

template <bool Down, bool Start, class T> cudaError_t start(const Sinkhorn& p, cudaStream_t stream) {
    const int64_t outputs = Down ? p.targets : p.sources, each = Down ? warp_size : kWarps;
    return launch(visit<Down, Start, T>, static_cast<unsigned>(p.rows * ((outputs + each - 1) / each)), kThreads, 0,
                  stream, p);
}

template <class T> cudaError_t start(const Sinkhorn& p, cudaStream_t stream) {
    using A = arithmetic_t<T>;
    const auto problems = static_cast<unsigned>(p.rows);
    cudaError_t error = launch(open<A>, problems, kThreads, 0, stream, p);
    if (p.sources * p.targets == 0)
        return error;
    const auto then = [&](auto next) { error = error == cudaSuccess ? next() : error; };
    then([&] { return start<false, true, T>(p, stream); });
    then([&] { return start<true, true, T>(p, stream); });
    then([&] { return start<false, true, T>(p, stream); });
    then([&] { return launch(warm<A>, problems, kThreads, 0, stream, p); });
    for (int64_t step = 0; step < p.steps; ++step) {
        then([&] { return start<false, false, T>(p, stream); });
        then([&] { return start<true, false, T>(p, stream); });
        then([&] { return launch(mix<A>, problems, kThreads, 0, stream, p); });
    }
    return error;
}

// A warp for each source: the largest exponent, the sum of the chances, and the place where a share of it is reached.
template <class T> __global__ void __launch_bounds__(kThreads) draw(const SinkhornDraw p) {
    using A = arithmetic_t<T>;
    const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
    const int64_t place = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
    if (place >= p.rows * p.sources) // a whole warp
        return;
    const int64_t row = place / p.sources, i = place % p.sources;
    const A *const b = static_cast<const A*>(p.b) + row * p.b_stride, inverse = static_cast<A>(1 / p.reg);
    const A* const g = static_cast<const A*>(p.g) + row * p.g_stride;
    A most = -static_cast<A>(__builtin_huge_val());
    for (int64_t j = lane; j < p.targets; j += warp_size)
        if (b[j] > A(0))
            most = Larger()(most, (g[j] - cost<T>(p, row, i, j)) * inverse);
    most = warp_reduce(most, Larger());
    const auto chance = [&](int64_t j) {
        return j < p.targets && b[j] > A(0) ? b[j] * exp((g[j] - cost<T>(p, row, i, j)) * inverse - most) : A(0);
    };
    double whole = 0;
    for (int64_t first = 0; first < p.targets; first += warp_size)
        whole += static_cast<double>(warp_reduce(chance(first + lane)));
    const double wanted = p.uniform[row * p.uniform_stride + i] * whole;
    double sum = 0;
    int64_t index = 0;
    for (int64_t first = 0; first < p.targets; first += warp_size) {
        const A mine = chance(first + lane);
        A up_to = mine;
#pragma unroll
        for (int step = 1; step < warp_size; step *= 2) {
            const A before = __shfl_up_sync(full_warp, up_to, step);
            up_to += lane >= step ? before : A(0);
        }
        const unsigned there = __ballot_sync(full_warp, mine > A(0));
        const unsigned beyond = __ballot_sync(full_warp, mine > A(0) && sum + static_cast<double>(up_to) > wanted);
        if (beyond != 0) {
            index = first + __ffs(static_cast<int>(beyond)) - 1;
            break;
        }
        if (there != 0) // the last that has a chance, should rounding leave none
            index = first + 31 - __clz(static_cast<int>(there));
        sum += static_cast<double>(__shfl_sync(full_warp, up_to, warp_size - 1));
    }
    if (lane == 0)
        p.index[place] = index;
}

} // namespace

int64_t sinkhorn_scratch(const Sinkhorn& p) {
    return p.rows * (p.type == DType::F64 ? doubles<double>(p) : doubles<float>(p));
}

Error sinkhorn(const Sinkhorn& p, void* stream) {
    if (p.rows == 0)
        return cudaSuccess;
    return with_type(
        p.type, [&](auto type) { return start<typename decltype(type)::type>(p, static_cast<cudaStream_t>(stream)); });
}

Error sinkhorn_draw(const SinkhornDraw& p, void* stream) {
    if (p.rows * p.sources == 0)
        return cudaSuccess;
    const auto blocks = static_cast<unsigned>((p.rows * p.sources + kWarps - 1) / kWarps);
    return with_type(p.type, [&](auto type) {
        return launch(draw<typename decltype(type)::type>, blocks, kThreads, 0, static_cast<cudaStream_t>(stream), p);
    });
}

} // namespace pfk::cuda
