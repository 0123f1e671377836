// Exact assignment of many rows without the matrix of their costs: an auction over short lists (Bertsekas 1988), whose
// prices shortest paths over the same lists make exact. Included once per instruction set.
//
// Prices only fall, so a row that once saw every column may go on with the kNear that were cheapest and a bound: no
// column that is not listed can cost less, after prices, than the next one did then. Where the bound could matter, the
// row looks at every column again.
#pragma once

#include "shortest_paths.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kNear = 16;

// Keys in rising order of (at, late), each once: a heap that knows the place of every key.
class Queue {
  public:
    struct Entry {
        double at;
        int32_t key, late;
        bool before(const Entry& other) const { return at < other.at || (at == other.at && late < other.late); }
    };

    static int64_t bytes(int64_t keys) { return keys * 20 + 128; }
    Queue(int64_t keys, Scratch& scratch) : entries_(scratch.take<Entry>(keys)), places_(scratch.take<int32_t>(keys)) {}

    void clear() { count_ = 0; }
    const Entry& first() const { return entries_[0]; }

    void insert(const Entry& entry) { rise(count_++, entry); }
    void bring_forward(const Entry& entry) { rise(places_[entry.key], entry); } // it is there already, at no less
    void remove_first() {
        const Entry last = entries_[--count_];
        int64_t place = 0;
        for (int64_t below = 1; below < count_; below = 2 * place + 1) {
            below += below + 1 < count_ && entries_[below + 1].before(entries_[below]);
            if (!entries_[below].before(last))
                break;
            put(place, entries_[below]);
            place = below;
        }
        put(place, last);
    }

  private:
    void put(int64_t place, const Entry& entry) {
        entries_[place] = entry;
        places_[entry.key] = static_cast<int32_t>(place);
    }
    void rise(int64_t place, const Entry& entry) {
        for (int64_t above; place > 0; place = above) {
            above = (place - 1) / 2;
            if (!entry.before(entries_[above]))
                break;
            put(place, entries_[above]);
        }
        put(place, entry);
    }

    Entry* const entries_;
    int32_t* const places_;
    int64_t count_ = 0;
};

// Columns for a list, in no order.
struct Candidates {
    static constexpr int64_t kMost = 64;
    double values[kMost];
    int64_t columns[kMost], count = 0;
    double enough = kInfinity; // there are as many as a list takes that cost no more: what ties with them may go

    void add(int64_t column, double value) {
        if (value >= enough)
            return;
        if (count == kMost) {
            keep(kNear + 1);
            enough = values[0];
            for (int64_t k = 1; k < count; ++k)
                enough = values[k] > enough ? values[k] : enough;
            if (value >= enough)
                return;
        }
        values[count] = value, columns[count++] = column;
    }

    // Leaves so many, the cheapest; returns the cheapest of those that went.
    double keep(int64_t wanted) {
        double gone = kInfinity;
        while (count > wanted) {
            int64_t worst = 0;
            for (int64_t k = 1; k < count; ++k)
                worst = values[k] > values[worst] ? k : worst;
            gone = values[worst];
            values[worst] = values[--count], columns[worst] = columns[count];
        }
        return gone;
    }
};

template <class Costs> class Auction {
  public:
    static int64_t bytes(int64_t size) {
        return size * (kNear * 12 + 8 * 8) + padded(size) * (8 * (2 + kTogether) + 4 * 2) + Queue::bytes(2 * size) +
               64 * 20;
    }

    // prices (ld,): at first any, they speed it up; at last those of the solution, as columns (size,).
    Auction(const Costs& costs, double* prices, int64_t* columns, Scratch& scratch)
        : costs_(costs), size_(costs.size), ld_(costs.ld), v_(prices), columns_(columns),
          owners_(scratch.take<int64_t>(ld_)), near_(scratch.take<int32_t>(size_ * kNear)),
          near_costs_(scratch.take<double>(size_ * kNear)), bounds_(scratch.take<double>(size_)),
          paid_(scratch.take<double>(size_)), waiting_(scratch.take<int64_t>(size_)),
          reduced_(scratch.take<double>(kTogether * ld_)), distance_(scratch.take<double>(ld_)),
          reached_from_(scratch.take<int32_t>(ld_)), seen_(scratch.take<int32_t>(ld_)),
          searched_(scratch.take<double>(size_)), offsets_(scratch.take<double>(size_)),
          closed_(scratch.take<int64_t>(size_)), closed_at_(scratch.take<double>(size_)), queue_(2 * size_, scratch) {}

    // Whether it was solved: where ties or wars of prices would take too long, shortest paths are better from the
    // start.
    bool solve() {
        looks_left_ = (kLooks + size_ / 64) * size_, bids_left_ = kBids * size_;
        for (int64_t i = 0; i < size_; ++i)
            waiting_[i] = i;
        look(waiting_, size_);
        const double spread = usual_spread();
        if (!(spread > 0))
            return false;
        double step = spread * Costs::kLastStep;
        for (int64_t k = Costs::steps(size_); k > 1; --k)
            step *= kShrink;
        for (; step > spread * Costs::kLastStep / 2; step /= kShrink)
            if (!bid(step))
                return false;
        if (!bid(0))
            return false;
        for (int64_t j = 0; j < size_; ++j)
            seen_[j] = 0;
        for (int64_t i = 0; i < size_; ++i)
            if (columns_[i] < 0 && !augment(i))
                return false;
        return true;
    }

  private:
    static constexpr int64_t kLooks = 32, kBids = 400,
                             kLastBids = 5;             // a row, more looks in large problems; last bids have no step
    static constexpr double kShrink = 6, kUneven = 100; // of a step to the next; from a median on

    // Finds the nearest columns of some rows again, a few rows at a time where bounds do: columns are read once for
    // all.
    void look(const int64_t* rows, int64_t count) {
        if constexpr (Costs::kBounded)
            for (; count >= kTogether; rows += kTogether, count -= kTogether) {
                costs_.template bounds<kTogether>(rows, reduced_);
                for (int64_t r = 0; r < kTogether; ++r)
                    list<true>(rows[r], reduced_ + r * ld_);
            }
        for (; count > 0; ++rows, --count)
            look<Costs::kBounded>(*rows);
    }

    template <bool Bounds> void look(int64_t i) {
        if constexpr (Bounds)
            costs_.template bounds<1>(&i, reduced_);
        list<Bounds>(i, reduced_);
    }

    // The list of row i, from bounds of its costs or from the costs themselves.
    template <bool Bounds> void list(int64_t i, double* reduced) {
        --looks_left_;
        const double limit = reduce<Bounds, false>(i, reduced, 0);
        Candidates found;
        for_lanes(limit, reduced, [&](int64_t j, double value) {
            if (value <= limit)
                found.add(j, value);
        });
        found.keep(kNear + 1);
        bounds_[i] = found.keep(kNear);
        for (int64_t k = 0; k < kNear; ++k) {
            const int64_t j = found.columns[k];
            near_[i * kNear + k] = static_cast<int32_t>(j);
            near_costs_[i * kNear + k] = Bounds ? costs_.entry(i, j) : found.values[k] + v_[j];
        }
    }

    // Makes of the costs of row i, or of bounds that lie there, costs after prices, and returns a number that at least
    // kNear + 1 of those (from `from` on, if Cut) do not exceed, and not many more: of the least of kWideRow lanes of
    // columns, the one that is kNear places behind the first.
    template <bool Bounds, bool Cut> double reduce(int64_t i, double* reduced, double from) {
        patience_.step();
        constexpr int64_t parts = kWideRow / kDoubles;
        Doubles least[parts];
        for (Doubles& part : least)
            part = all_of(kInfinity);
        const auto fold = [&](const auto& row) {
            for (int64_t j = 0; j < ld_; j += kWideRow)
                for (int64_t part = 0; part < parts; ++part) {
                    const int64_t at = j + part * kDoubles;
                    const Doubles value = row.at(at) - doubles_at(v_ + at);
                    doubles_at(reduced + at) = value;
                    Doubles counted = value;
                    if constexpr (Cut)
                        counted = value >= from ? value : all_of(kInfinity);
                    least[part] = counted < least[part] ? counted : least[part];
                }
        };
        if constexpr (Bounds)
            fold(CostRow{reduced});
        else
            fold(costs_.row(i));
        __builtin_memcpy(lanes_, least, sizeof(lanes_));
        return limit_of_lanes();
    }

    // A number that at least kNear + 1 lanes do not exceed, and not many more, by halving; infinity if there are none.
    double limit_of_lanes() const {
        double low = kInfinity, high = -kInfinity;
        for (const double lane : lanes_) {
            low = lane < low ? lane : low;
            high = lane > high && lane < kInfinity ? lane : high;
        }
        if (lanes_up_to(high) <= kNear)
            return kInfinity;
        for (int halving = 0; halving < 8; ++halving) {
            const double middle = low + (high - low) / 2;
            (lanes_up_to(middle) > kNear ? high : low) = middle;
        }
        return high;
    }
    int64_t lanes_up_to(double limit) const {
        Ints count = {};
        for (int64_t lane = 0; lane < kWideRow; lane += kDoubles)
            count -= doubles_at(lanes_ + lane) <= limit;
        int64_t sum = 0;
        for (int64_t l = 0; l < kDoubles; ++l)
            sum += count[l];
        return sum;
    }

    // Calls take(column, reduced cost) where a cost can be below the limit.
    template <class Take> void for_lanes(double limit, const double* reduced, Take take) const {
        for (int64_t lane = 0; lane < kWideRow; ++lane)
            if (lanes_[lane] <= limit)
                for (int64_t j = lane; j < size_; j += kWideRow)
                    take(j, reduced[j]);
    }

    // How far a row's list reaches, as the median of some rows; 0 where steps of one size do not serve all of them, or
    // many find two columns equally cheap.
    double usual_spread() const {
        constexpr int64_t some = 63;
        double spreads[some];
        int64_t ties = 0;
        for (int64_t k = 0; k < some; ++k) {
            const int64_t i = k * (size_ - 1) / (some - 1);
            const Least least = listed(i);
            ties += least.second[0] <= least.first[0];
            const double spread = bounds_[i] - least.first[0];
            int64_t place = k;
            for (; place > 0 && spreads[place - 1] > spread; --place)
                spreads[place] = spreads[place - 1];
            spreads[place] = spread;
        }
        const double usual = spreads[some / 2];
        return ties > some / 2 || spreads[some * 7 / 8] > kUneven * usual ? 0.0 : usual;
    }

    // Everybody bids anew: for the column that is cheapest, as much below its price as the next one is dearer, and a
    // step more. Without a step not all may get one. False where there are no bids left.
    bool bid(double step) {
        int64_t waiting = size_, bids = step > 0 ? bids_left_ : kLastBids * size_;
        for (int64_t i = 0; i < size_; ++i) {
            columns_[i] = owners_[i] = -1;
            waiting_[i] = size_ - 1 - i;
        }
        while (waiting > 0) {
            if (looks_left_ < 0 || (step > 0 && bids < 0))
                return false;
            if (bids-- < 0)
                return true;
            patience_.step();
            if constexpr (Costs::kBounded)
                look_ahead(waiting);
            const int64_t i = waiting_[--waiting];
            const Least least = cheapest(i);
            const double second = least.second[0] < bounds_[i] ? least.second[0] : bounds_[i];
            const double gain = second - least.first[0] + step;
            int64_t k = least.first_at[0];
            if (gain > 0)
                v_[near_[i * kNear + k]] -= gain;
            else if (owners_[near_[i * kNear + k]] >= 0) {
                k = least.second_at[0];
                if (least.second[0] > least.first[0] || owners_[near_[i * kNear + k]] >= 0)
                    continue;
            }
            const int64_t j = near_[i * kNear + k], loser = owners_[j];
            owners_[j] = i, columns_[i] = j, paid_[i] = near_costs_[i * kNear + k];
            if (loser >= 0)
                columns_[loser] = -1, waiting_[waiting++] = loser;
        }
        if (step > 0)
            bids_left_ = bids;
        return true;
    }

    // The two cheapest columns of a row's list; the first is the cheapest of all.
    Least cheapest(int64_t i) {
        Least least = listed(i);
        if (least.first[0] > bounds_[i]) {
            look<Costs::kBounded>(i);
            least = listed(i);
        }
        if (Costs::kBounded && least.first[0] > bounds_[i]) { // so near to each other that bounds do not tell
            look<false>(i);
            least = listed(i);
        }
        return least;
    }

    // Where the row that bids next must look, some that bid soon look with it.
    void look_ahead(int64_t waiting) {
        int64_t stale[kTogether], count = 0;
        for (int64_t k = waiting - 1; k >= 0 && k >= waiting - 4 * kTogether && count < kTogether; --k) {
            const int64_t i = waiting_[k];
            if (listed(i).first[0] > bounds_[i])
                stale[count++] = i;
            else if (count == 0)
                return;
        }
        if (count == kTogether)
            look(stale, count);
    }

    Least listed(int64_t i) const {
        alignas(64) double values[kNear];
        for (int64_t k = 0; k < kNear; ++k)
            values[k] = near_costs_[i * kNear + k] - v_[near_[i * kNear + k]];
        const Doubles none = all_of(kInfinity);
        Least least{none, none, {}, {}};
        Ints at = lane_numbers();
        for (int64_t k = 0; k < kNear; k += kDoubles, at += kDoubles)
            least.offer(doubles_at(values + k), at);
        return together(least);
    }

    // Dijkstra over the lists from a row that has no column; a row whose list ends before the way does looks farther.
    bool augment(int64_t start) {
        cheapest(start); // renews a list that is out of date
        ++search_;
        queue_.clear();
        scan(start, 0);
        int64_t closed = 0, j = -1;
        double reach = 0;
        for (;;) {
            patience_.step();
            const Queue::Entry next = queue_.first();
            queue_.remove_first();
            if (next.key >= size_) {
                if (!search_farther(next.key - size_))
                    return false;
                continue;
            }
            j = next.key, reach = next.at;
            seen_[j] = 2 * search_ + 1;
            if (owners_[j] < 0)
                break;
            closed_[closed] = j, closed_at_[closed++] = reach;
            scan(owners_[j], reach - (paid_[owners_[j]] - v_[j]));
        }
        for (int64_t k = 0; k < closed; ++k)
            v_[closed_[k]] += closed_at_[k] - reach;
        for (;;) { // the rows on the way move on by one column
            const int64_t row = reached_from_[j], left = columns_[row];
            owners_[j] = row, columns_[row] = j, paid_[row] = costs_.entry(row, j);
            if (row == start)
                return true;
            j = left;
        }
    }

    void scan(int64_t i, double offset) {
        for (int64_t k = i * kNear; k < (i + 1) * kNear; ++k)
            reach_column(near_[k], near_costs_[k] - v_[near_[k]] + offset, i);
        offsets_[i] = offset, searched_[i] = Costs::kBounded ? -kInfinity : bounds_[i];
        queue_.insert({bounds_[i] + offset, static_cast<int32_t>(size_ + i), 1});
    }

    bool search_farther(int64_t i) {
        if constexpr (Costs::kBounded)
            costs_.template bounds<1>(&i, reduced_);
        const double from = searched_[i], limit = reduce<Costs::kBounded, true>(i, reduced_, from);
        for_lanes(limit, reduced_, [&](int64_t j, double value) {
            if (value >= from && value <= limit)
                reach_column(j, (Costs::kBounded ? costs_.entry(i, j) - v_[j] : value) + offsets_[i], i);
        });
        searched_[i] = __builtin_nextafter(limit, kInfinity);
        const double least = searched_[i] > bounds_[i] ? searched_[i] : bounds_[i];
        if (limit < kInfinity)
            queue_.insert({least + offsets_[i], static_cast<int32_t>(size_ + i), 1});
        return looks_left_-- > 0;
    }

    void reach_column(int64_t j, double distance, int64_t from) {
        const Queue::Entry entry{distance, static_cast<int32_t>(j), owners_[j] < 0 ? 0 : 2};
        if (seen_[j] < 2 * search_)
            queue_.insert(entry);
        else if (seen_[j] == 2 * search_ && distance < distance_[j])
            queue_.bring_forward(entry);
        else
            return;
        seen_[j] = 2 * search_, distance_[j] = distance, reached_from_[j] = static_cast<int32_t>(from);
    }

    const Costs costs_;
    const int64_t size_, ld_;
    double* const v_;
    int64_t *const columns_, *const owners_; // of rows, of columns; -1: none
    int32_t* const near_;                    // (size, kNear): columns, and what they cost
    double *const near_costs_, *const bounds_;
    double* const paid_; // what each row's own column costs it
    int64_t* const waiting_;
    double *const reduced_, *const distance_;
    int32_t *const reached_from_, *const seen_; // by the search: 2 search_ on the way, 2 search_ + 1 closed
    double *const searched_, *const offsets_;   // of rows on the way: up to which cost, and how far behind the start
    int64_t* const closed_;
    double* const closed_at_;
    Queue queue_;
    Patience patience_;
    double lanes_[kWideRow];
    int64_t looks_left_ = 0, bids_left_ = 0;
    int32_t search_ = 0;
};

} // namespace
} // namespace pfk::cpu
