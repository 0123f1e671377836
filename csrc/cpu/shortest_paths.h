// Exact assignment by shortest augmenting paths, every row of costs read whole (Jonker, Volgenant 1987). Included once
// per instruction set.
//
// Column prices v only fall. A row that has a column stays content with it: no other is cheaper after prices.
#pragma once

#include "costs.h"
#include "patience.h"
#include "scratch.h"

namespace pfk::cpu {
namespace {

// The two least of a row, and their columns.
struct Least {
    Doubles first, second;
    Ints first_at, second_at;

    // Takes in candidates whose columns all lie behind those seen in the same lanes.
    void offer(Doubles value, Ints at) {
        const Ints better = value < first, between = value < second;
        second = better ? first : between ? value : second;
        second_at = better ? first_at : between ? at : second_at;
        first = better ? value : first;
        first_at = better ? at : first_at;
    }

    void merge(const Least& other) {
        const Ints better = (other.first < first) | ((other.first == first) & (other.first_at < first_at));
        const Doubles loser = better ? first : other.first;
        const Ints loser_at = better ? first_at : other.first_at;
        first = better ? other.first : first;
        first_at = better ? other.first_at : first_at;
        const Ints lower = other.second < second;
        second = lower ? other.second : second;
        second_at = lower ? other.second_at : second_at;
        const Ints lost = loser < second;
        second = lost ? loser : second;
        second_at = lost ? loser_at : second_at;
    }
};

inline Ints lane_numbers() {
    Ints lanes;
    for (int64_t l = 0; l < kDoubles; ++l)
        lanes[l] = l;
    return lanes;
}

// In the first lane, what all lanes hold together.
inline Least together(Least least) {
    for (int64_t step = kDoubles / 2; step > 0; step /= 2) {
        const Ints across = lane_numbers() ^ step;
        least.merge({__builtin_shuffle(least.first, across), __builtin_shuffle(least.second, across),
                     __builtin_shuffle(least.first_at, across), __builtin_shuffle(least.second_at, across)});
    }
    return least;
}

template <class Costs> class ShortestPaths {
  public:
    static int64_t bytes(int64_t size) { return (9 * padded(size) + 16) * 8 + 640; }

    // prices (ld,) and columns (size,) are results.
    ShortestPaths(const Costs& costs, double* prices, int64_t* columns, Scratch& scratch)
        : costs_(costs), size_(costs.size), ld_(costs.ld), v_(prices), columns_(columns),
          owners_(scratch.take<int64_t>(ld_)), taken_(scratch.take<double>(ld_)), distance_(scratch.take<double>(ld_)),
          barred_(scratch.take<double>(ld_)), reached_from_(scratch.take<int64_t>(ld_)),
          waiting_(scratch.take<int64_t>(ld_)), closed_(scratch.take<int64_t>(ld_)),
          closed_at_(scratch.take<double>(ld_)) {}

    void solve() {
        int64_t left = reduce_columns();
        for (int pass = 0; pass < kPasses; ++pass)
            left = bid(left);
        for (int64_t j = 0; j < ld_; ++j)
            taken_[j] = j < size_ && owners_[j] < 0 ? 0.0 : kInfinity;
        for (int64_t k = 0; k < left; ++k)
            augment(waiting_[k]);
    }

  private:
    static constexpr int kPasses = 2;
    static constexpr int64_t kBids = 2; // a row, in a pass

    // Each column's least cost is its price; its row takes the column unless it has one. Returns how many have none.
    int64_t reduce_columns() {
        for (int64_t j = 0; j < ld_; ++j)
            v_[j] = kInfinity, reached_from_[j] = 0, owners_[j] = -1;
        for (int64_t i = 0; i < size_; ++i) {
            columns_[i] = -1;
            const auto row = costs_.row(i);
            for (int64_t j = 0; j < ld_; j += kDoubles) {
                const Doubles cost = row.at(j), best = doubles_at(v_ + j);
                const Ints lower = cost < best;
                doubles_at(v_ + j) = lower ? cost : best;
                ints_at(reached_from_ + j) = lower ? all_of(i) : ints_at(reached_from_ + j);
            }
        }
        for (int64_t j = size_; j < ld_; ++j)
            v_[j] = 0;
        for (int64_t j = size_ - 1; j >= 0; --j)
            if (columns_[reached_from_[j]] < 0)
                give(j, reached_from_[j]);
        int64_t left = 0;
        for (int64_t i = 0; i < size_; ++i)
            if (columns_[i] < 0)
                waiting_[left++] = i;
        return left;
    }

    // Rows take the column that is cheapest for them and lower its price until the next one is as cheap; who loses a
    // column bids again, as long as there are bids, or waits. Returns how many wait.
    int64_t bid(int64_t waiting) {
        int64_t left = 0, bids = kBids * size_;
        for (int64_t next = 0; next < waiting;) {
            const int64_t i = waiting_[next++];
            const Least least = two_least(i);
            const double gain = least.second[0] - least.first[0];
            int64_t j = least.first_at[0];
            if (gain > 0)
                v_[j] -= gain;
            else if (owners_[j] >= 0)
                j = least.second_at[0];
            const int64_t loser = owners_[j];
            give(j, i);
            if (loser < 0)
                continue;
            columns_[loser] = -1;
            if (gain > 0 && bids-- > 0)
                waiting_[--next] = loser;
            else
                waiting_[left++] = loser;
        }
        return left;
    }

    Least two_least(int64_t i) {
        patience_.step();
        const Doubles none = all_of(kInfinity);
        Least least[2] = {{none, none, {}, {}}, {none, none, {}, {}}};
        const auto row = costs_.row(i);
        Ints at = lane_numbers();
        for (int64_t j = 0; j < ld_; j += 2 * kDoubles)
            for (int64_t half = 0; half < 2; ++half, at += kDoubles) {
                const int64_t from = j + half * kDoubles;
                least[half].offer(row.at(from) - doubles_at(v_ + from), at);
            }
        least[0].merge(least[1]);
        return together(least[0]);
    }

    void give(int64_t j, int64_t i) { owners_[j] = i, columns_[i] = j; }

    // Dijkstra from row `start` to the nearest column that nobody has.
    void augment(int64_t start) {
        for (int64_t j = 0; j < ld_; ++j)
            distance_[j] = kInfinity, barred_[j] = v_[j];
        int64_t i = start, j = -1, closed = 0;
        double reach = 0, offset = 0;
        for (bool first = true;; first = false) {
            const double before = reach;
            j = nearest(i, offset, reach);
            if (!first && reach <= before && taken_[j] != 0)
                j = untaken(reach, j);
            if (owners_[j] < 0)
                break;
            closed_[closed] = j, closed_at_[closed++] = reach;
            distance_[j] = kInfinity, barred_[j] = -kInfinity; // so that it is never reached again
            i = owners_[j];
            offset = reach - (costs_.entry(i, j) - v_[j]);
        }
        for (int64_t k = 0; k < closed; ++k)
            v_[closed_[k]] += closed_at_[k] - reach;
        taken_[j] = kInfinity;
        for (;;) { // the rows on the way move on by one column
            const int64_t row = reached_from_[j], left = columns_[row];
            give(j, row);
            if (row == start)
                return;
            j = left;
        }
    }

    // Distances by way of row i; returns the nearest column that is not closed, and how far it is.
    int64_t nearest(int64_t i, double offset, double& reach) {
        patience_.step();
        Doubles least = all_of(kInfinity);
        Ints at = lane_numbers(), least_at = {};
        const Ints from = all_of(i);
        const auto row = costs_.row(i);
        for (int64_t j = 0; j < ld_; j += kDoubles, at += kDoubles) {
            const Doubles by_row = row.at(j) - doubles_at(barred_ + j) + offset, known = doubles_at(distance_ + j);
            const Ints shorter = by_row < known;
            const Doubles distance = shorter ? by_row : known;
            doubles_at(distance_ + j) = distance;
            ints_at(reached_from_ + j) = shorter ? from : ints_at(reached_from_ + j);
            const Ints nearer = distance < least;
            least = nearer ? distance : least;
            least_at = nearer ? at : least_at;
        }
        const Least all = together({least, least, least_at, least_at});
        reach = all.first[0];
        return all.first_at[0];
    }

    // A column at this distance that nobody has, or `otherwise`: among many that are equally far, the way ends sooner.
    int64_t untaken(double reach, int64_t otherwise) const {
        Doubles least = all_of(kInfinity);
        Ints at = lane_numbers(), least_at = {};
        for (int64_t j = 0; j < ld_; j += kDoubles, at += kDoubles) {
            const Doubles distance = doubles_at(distance_ + j) + doubles_at(taken_ + j);
            const Ints nearer = distance < least;
            least = nearer ? distance : least;
            least_at = nearer ? at : least_at;
        }
        const Least all = together({least, least, least_at, least_at});
        return all.first[0] <= reach ? all.first_at[0] : otherwise;
    }

    const Costs costs_;
    const int64_t size_, ld_;
    double* const v_;
    int64_t *const columns_, *const owners_; // of rows, of columns; -1: none
    double* const taken_;                    // 0 of columns that nobody has, infinity of others
    double *const distance_, *const barred_; // of columns; prices, -infinity of closed columns
    int64_t *const reached_from_, *const waiting_, *const closed_;
    double* const closed_at_;
    Patience patience_;
};

} // namespace
} // namespace pfk::cpu
