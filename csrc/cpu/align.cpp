// align on the CPU: Hyyro's bit-parallel distance, a pair of sequences a lane, 64 tokens of x0 a word. Three bits that
// are kept of every cell decide which last pairs are optimal there; the way back reads them, a pair at a time.
// Compiled once per instruction set.

#include "../math/align.h"
#include "dispatch.h"
#include "scratch.h"
#include "tile.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kBits = 64;
typedef uint64_t Lanes __attribute__((vector_size(kRegister)));
constexpr int64_t kPairs = kRegister / 8; // at a time

int64_t within(int64_t length, int64_t most) { return length < 0 ? 0 : length > most ? most : length; }

// Numbers the symbols of a sequence from 1; others are 0.
class Symbols {
  public:
    explicit Symbols(int64_t most) : slots_(16), scratch_(bytes(most, slots_)) {
        symbol_ = scratch_.take<int64_t>(slots_);
        number_ = scratch_.take<int32_t>(slots_);
    }

    int32_t read(const int64_t* x, int64_t n, int32_t* numbers) {
        for (int64_t s = 0; s < slots_; ++s)
            number_[s] = 0;
        int32_t found = 0;
        for (int64_t i = 0; i < n; ++i) {
            const int64_t slot = of(x[i]);
            if (number_[slot] == 0)
                symbol_[slot] = x[i], number_[slot] = ++found;
            numbers[i] = number_[slot];
        }
        return found;
    }
    int32_t operator()(int64_t symbol) const { return number_[of(symbol)]; }

  private:
    static int64_t bytes(int64_t most, int64_t& slots) {
        while (slots < 2 * most)
            slots *= 2;
        return 12 * slots + 64;
    }
    int64_t of(int64_t symbol) const {
        int64_t slot = static_cast<int64_t>((static_cast<uint64_t>(symbol) * 0x9E3779B97F4A7C15u) >> 32) & (slots_ - 1);
        while (number_[slot] != 0 && symbol_[slot] != symbol)
            slot = (slot + 1) & (slots_ - 1);
        return slot;
    }

    int64_t slots_;
    Scratch scratch_;
    int64_t* symbol_;
    int32_t* number_;
};

// What is kept of 64 rows of a column: whether a cell is no more than its neighbour on the diagonal, one more than that
// on the left, one more than that above.
struct Cells {
    Lanes diagonal, left, above;
};

class Pairs {
  public:
    explicit Pairs(const Align& p)
        : p_(p), words_((p.n0 + kBits - 1) / kBits), symbols_(p.n0),
          scratch_(static_cast<int64_t>(sizeof(Cells)) * words_ * p.n1 + 2 * kRegister * words_ +
                   4 * (kPairs * p.n1 + p.n0) + 5 * 64) {
        cells_ = scratch_.take<Cells>(words_ * p.n1);
        up_ = scratch_.take<Lanes>(words_), down_ = scratch_.take<Lanes>(words_);
        columns_ = scratch_.take<int32_t>(kPairs * p.n1);
        numbers_ = scratch_.take<int32_t>(p.n0);
    }

    void run(int64_t first, int64_t n) {
        int64_t longest = 0, rows = 0;
        for (int64_t l = 0; l < n; ++l) {
            longest = longest > length1(first + l) ? longest : length1(first + l);
            rows = rows > length0(first + l) ? rows : length0(first + l);
        }
        const int64_t words = (rows + kBits - 1) / kBits;
        if (words > 0 && longest > 0)
            distances(first, n, words, longest);
        for (int64_t l = 0; l < n; ++l)
            go_back(first + l, l, words);
    }

  private:
    int64_t length0(int64_t row) const { return within(p_.lengths0[row], p_.n0); }
    int64_t length1(int64_t row) const { return within(p_.lengths1[row], p_.n1); }

    void distances(int64_t first, int64_t n, int64_t words, int64_t longest) {
        int64_t rows[kPairs] = {};
        int64_t most = 0;
        for (int64_t l = 0; l < n; ++l) // where the bits of each symbol of each pair will be
            rows[l] = most, most += (length0(first + l) + 1) * words;
        Scratch room(8 * most);
        uint64_t* const bits = room.take<uint64_t>(most);
        for (int64_t l = 0; l < kPairs; ++l)
            l < n ? mark(first + l, l, words, longest, bits + rows[l]) : clear(l, longest);
        for (int64_t w = 0; w < words; ++w)
            up_[w] = ~Lanes{}, down_[w] = Lanes{};
        for (int64_t j = 0; j < longest; ++j) {
            const uint64_t* of[kPairs];
            for (int64_t l = 0; l < kPairs; ++l)
                of[l] = bits + rows[l] + columns_[j * kPairs + l] * words;
            column(of, words, cells_ + j * words);
        }
    }

    void clear(int64_t l, int64_t longest) {
        for (int64_t j = 0; j < longest; ++j)
            columns_[j * kPairs + l] = 0;
    }

    // Where in x0 each symbol of it stands, and which symbol each token of x1 is.
    void mark(int64_t row, int64_t l, int64_t words, int64_t longest, uint64_t* bits) {
        const int64_t n0 = length0(row), n1 = length1(row);
        const int64_t *const x0 = p_.x0 + row * p_.n0, *const x1 = p_.x1 + row * p_.n1;
        const int64_t found = symbols_.read(x0, n0, numbers_);
        for (int64_t i = 0; i < (found + 1) * words; ++i)
            bits[i] = 0;
        for (int64_t i = 0; i < n0; ++i)
            bits[numbers_[i] * words + i / kBits] |= uint64_t(1) << (i % kBits);
        for (int64_t j = 0; j < longest; ++j)
            columns_[j * kPairs + l] = j < n1 ? symbols_(x1[j]) : 0;
    }

    void column(const uint64_t* const* of, int64_t words, Cells* cells) {
        Lanes plus = Lanes{} + 1, minus = {}; // what comes from the word above: the first row grows by one a column
        for (int64_t w = 0; w < words; ++w) {
            Lanes equal;
            for (int64_t l = 0; l < kPairs; ++l)
                equal[l] = of[l][w];
            const Lanes up = up_[w], down = down_[w], x = equal | minus;
            const Lanes diagonal = (((x & up) + up) ^ up) | x | down;
            const Lanes left = down | ~(diagonal | up), right = diagonal & up;
            const Lanes grown = left << 1 | plus, shrunk = right << 1 | minus;
            plus = left >> 63, minus = right >> 63;
            up_[w] = shrunk | ~(diagonal | grown), down_[w] = grown & diagonal;
            cells[w] = {diagonal, left, up_[w]};
        }
    }

    void go_back(int64_t row, int64_t l, int64_t words) {
        const int64_t *const x0 = p_.x0 + row * p_.n0, *const x1 = p_.x1 + row * p_.n1, whole = p_.n0 + p_.n1;
        int64_t *const z0 = p_.z0 + row * whole, *const z1 = p_.z1 + row * whole;
        int64_t i = length0(row), j = length1(row), step = 0, distance = 0, block = -1;
        Words words_of{};
        for (; i > 0 || j > 0; ++step) {
            int chosen = i == 0 ? 2 : 1; // pair, delete, insert
            if (i > 0 && j > 0) {
                const Cells& at = cells_[(j - 1) * words + (i - 1) / kBits];
                const auto bit = [&](const Lanes& v) {
                    return static_cast<int>((*(reinterpret_cast<const uint64_t*>(&v) + l) >> ((i - 1) % kBits)) & 1);
                };
                const int pair = x0[i - 1] == x1[j - 1] || bit(at.diagonal) == 0, above = bit(at.above),
                          ways = pair + above + bit(at.left);
                int skip = 0; // of the optimal ones
                if (ways > 1) {
                    if (block != step / kPerCounter)
                        block = step / kPerCounter,
                        words_of = philox(static_cast<uint64_t>(p_.keys[row]), static_cast<uint64_t>(block), 0, kAlign);
                    skip = static_cast<int>(
                        static_cast<uint64_t>(words_of.at[step % kPerCounter]) * static_cast<uint64_t>(ways) >> 32);
                }
                chosen = pair > skip ? 0 : pair + above > skip ? 1 : 2;
            }
            const int64_t a = chosen < 2 ? x0[--i] : kBlank, b = chosen != 1 ? x1[--j] : kBlank;
            z0[whole - 1 - step] = a, z1[whole - 1 - step] = b;
            distance += chosen != 0 || a != b;
        }
        for (int64_t k = 0; k < whole; ++k) { // from the end of the row to its beginning
            z0[k] = k < step ? z0[whole - step + k] : kBlank;
            z1[k] = k < step ? z1[whole - step + k] : kBlank;
        }
        p_.distance[row] = distance;
    }

    const Align& p_;
    const int64_t words_;
    Symbols symbols_;
    Scratch scratch_;
    Cells* cells_;
    Lanes *up_, *down_;
    int32_t *columns_, *numbers_;
};

} // namespace

namespace PFK_ISA {

void align(const Align& p, int64_t begin, int64_t end) {
    Pairs pairs(p);
    for (int64_t first = begin; first < end; first += kPairs) {
        check_interrupt();
        pairs.run(first, end - first < kPairs ? end - first : kPairs);
    }
}

} // namespace PFK_ISA
} // namespace pfk::cpu
