// A row's random numbers on the CPU, a stretch at a time: for every kernel that draws.
#pragma once

#include "../math/philox.h"
#include "tile.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace pfk::cpu {
namespace {

static_assert(kSigns % kLanes == 0 && kSigns % kPerCounter == 0, "a stretch fills vectors");

constexpr int64_t kCounters = kSigns / kPerCounter; // that are run side by side

// One counter of many: a row's key, the block of numbers within the row, the draw.
struct Counters {
    alignas(64) uint64_t key[kCounters], block[kCounters], draw[kCounters];
};

typedef uint64_t Wide __attribute__((vector_size(kRegister)));
typedef uint32_t Narrow __attribute__((vector_size(kRegister / 2)));
constexpr int64_t kWide = kRegister / 8, kAbreast = kRegister == 64 ? 4 : 2; // registers that hide the latency

// Products of the low halves, which GCC makes of no plain loop in one instruction.
__attribute__((always_inline)) inline Wide product(Wide a, uint32_t factor) {
#if defined(__AVX512F__)
    return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
    return (Wide)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
    return (Wide)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(factor));
#else
    return (a & 0xffffffffu) * factor;
#endif
}

// philox() in vectors: of every word in flight the low half alone counts.
inline void philox(const Counters& at, uint32_t kind, uint32_t (*words)[kCounters]) {
    for (int64_t first = 0; first < kCounters; first += kAbreast * kWide) {
        Wide a[kAbreast], b[kAbreast], c[kAbreast], d[kAbreast], k0[kAbreast], k1[kAbreast];
        for (int64_t j = 0; j < kAbreast; ++j) {
            const auto in = [&](const uint64_t* from) {
                return *reinterpret_cast<const Wide*>(from + first + j * kWide);
            };
            a[j] = in(at.block), b[j] = a[j] >> 32, c[j] = in(at.draw), d[j] = Wide{} + kind;
            k0[j] = in(at.key), k1[j] = k0[j] >> 32;
        }
        for (int round = 0; round < 10; ++round)
#pragma GCC unroll 4
            for (int64_t j = 0; j < kAbreast; ++j) {
                const Wide one = product(a[j], 0xD2511F53u), other = product(c[j], 0xCD9E8D57u);
                a[j] = (other >> 32) ^ b[j] ^ k0[j], b[j] = other;
                c[j] = (one >> 32) ^ d[j] ^ k1[j], d[j] = one;
                k0[j] += 0x9E3779B9u, k1[j] += 0xBB67AE85u;
            }
        for (int64_t j = 0; j < kAbreast; ++j) {
            const auto out = [&](Wide word, uint32_t* to) {
                *reinterpret_cast<Narrow*>(to + first + j * kWide) = __builtin_convertvector(word, Narrow);
            };
            out(a[j], words[0]), out(b[j], words[1]), out(c[j], words[2]), out(d[j], words[3]);
        }
    }
}

// Uniform or normal numbers of kCounters counters: those of counter i begin at e[kPerCounter i].
template <class A> void random_numbers_at(Random kind, const Counters& at, A* e) {
    alignas(64) uint32_t words[4][kCounters];
    alignas(64) A numbers[4][kCounters];
    philox(at, static_cast<uint32_t>(kind), words);
    for (int w = 0; w < 4 && kind == Random::Uniform; ++w)
#pragma omp simd
        for (int64_t i = 0; i < kCounters; ++i)
            numbers[w][i] = uniform_of<A>(words[w][i]);
    for (int pair = 0; pair < 4 && kind == Random::Normal; pair += 2)
#pragma omp simd
        for (int64_t i = 0; i < kCounters; ++i) {
            const Normals<A> n = normals_of<A>(words[pair][i], words[pair + 1][i]);
            numbers[pair][i] = n.first, numbers[pair + 1][i] = n.second;
        }
#pragma omp simd
    for (int64_t i = 0; i < kCounters; ++i) {
        A* const four = e + kPerCounter * i;
        four[0] = numbers[0][i], four[1] = numbers[1][i], four[2] = numbers[2][i], four[3] = numbers[3][i];
    }
}

// Stretch `stretch` of kSigns numbers of a row's draw.
template <class A> void random_stretch(Random kind, uint64_t key, int64_t stretch, uint32_t draw, A* e) {
    if (kind != Random::Sign) {
        Counters at;
        for (int64_t i = 0; i < kCounters; ++i) {
            at.key[i] = key, at.draw[i] = draw;
            at.block[i] = static_cast<uint64_t>(stretch * kCounters + i);
        }
        return random_numbers_at(kind, at, e);
    }
    const Words words = philox(key, static_cast<uint64_t>(stretch), draw, kind);
    for (int w = 0; w < 4; ++w)
#pragma omp simd
        for (int bit = 0; bit < 32; ++bit)
            e[32 * w + bit] = sign_of<A>(words.at[w], bit);
}

// Calls body(place of the stretch within the row (draws, size), its numbers, how many of them there are).
template <class A, class Body>
void for_random_stretches(Random kind, int64_t key, int64_t draws, int64_t size, Body body) {
    alignas(64) A e[kSigns];
    for (int64_t draw = 0; draw < draws; ++draw)
        for (int64_t first = 0; first < size; first += kSigns) {
            random_stretch(kind, static_cast<uint64_t>(key), first / kSigns, static_cast<uint32_t>(draw), e);
            body(draw * size + first, e, size - first < kSigns ? size - first : kSigns);
        }
}

// Rows of one counter each: calls body(first row, how many rows, their numbers, of each kPerCounter).
template <class A, class Body>
void for_shortest_rows(Random kind, const int64_t* keys, int64_t begin, int64_t end, Body body) {
    Counters at = {};
    alignas(64) A e[kSigns];
    for (int64_t row = begin; row < end; row += kCounters) {
        const int64_t n = end - row < kCounters ? end - row : kCounters;
        copy(keys + row, reinterpret_cast<int64_t*>(at.key), n);
        random_numbers_at(kind, at, e);
        body(row, n, e);
    }
}

// The same over rows [begin, end), whose uniform or normal numbers share vectors where rows are short: calls body(row,
// place of a piece within it, its numbers, how many).
template <class A, class Body>
void for_random_rows(Random kind, const int64_t* keys, int64_t begin, int64_t end, int64_t draws, int64_t size,
                     Body body) {
    const int64_t blocks = (size + kPerCounter - 1) / kPerCounter; // of a draw
    if (blocks * draws == 0)
        return;
    struct Piece {
        int64_t row, place, count;
    };
    Counters at = {};
    Piece pieces[kCounters];
    alignas(64) A e[kSigns];
    int64_t row = begin, draw = 0, block = 0;
    while (row < end) {
        int64_t taken = 0, found = 0;
        for (int64_t n; taken < kCounters && row < end; taken += n) {
            n = blocks - block < kCounters - taken ? blocks - block : kCounters - taken;
            for (int64_t i = 0; i < n; ++i) {
                at.key[taken + i] = static_cast<uint64_t>(keys[row]);
                at.block[taken + i] = static_cast<uint64_t>(block + i);
                at.draw[taken + i] = static_cast<uint64_t>(draw);
            }
            const int64_t first = block * kPerCounter, left = size - first;
            pieces[found++] = {row, draw * size + first, left < n * kPerCounter ? left : n * kPerCounter};
            block += n;
            if (block == blocks && ++draw == draws)
                ++row, draw = 0;
            block %= blocks;
        }
        random_numbers_at(kind, at, e);
        const A* numbers = e;
        for (int64_t i = 0; i < found; ++i) {
            body(pieces[i].row, pieces[i].place, numbers, pieces[i].count);
            numbers += (pieces[i].count + kPerCounter - 1) / kPerCounter * kPerCounter;
        }
    }
}

} // namespace
} // namespace pfk::cpu
