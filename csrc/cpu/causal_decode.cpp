// causal_decode on the CPU: a tile of events goes through a whole transformer for each of its tokens, what earlier ones
// have left in keys and values lying beside it. Compiled once per instruction set.

#include "../math/causal_decode.h"
#include "gemm.h"
#include "scratch.h"

namespace pfk::cpu {
namespace {

constexpr int64_t kEvents = 12;   // of a tile: their keys and values stay nearer than those of many
constexpr int64_t kStretch = 128; // of a product at a time: a panel's part stays in the first cache

template <class A> struct Matrix {
    const A *panels, *bias;
    int64_t in, out;
};

// As the weights come, one after the other.
template <class A> class Reader {
  public:
    explicit Reader(const void* weights) : at_(static_cast<const A*>(weights)) {}
    Matrix<A> matrix(int64_t in, int64_t out) {
        const A* const panels = at_;
        at_ += (in + 1) * panelled(out);
        return {panels, panels + in * panelled(out), in, out};
    }
    const A* vector(int64_t size) {
        const A* const found = at_;
        at_ += size;
        return found;
    }

  private:
    const A* at_;
};

template <class A> class Decoder {
  public:
    Decoder(const CausalDecode& p, int64_t first, int64_t events)
        : p_(p), first_(first), events_(events), rows_(events * (p.guidance == Guidance::None ? 1 : 2)),
          room_((p.seen() + kLanes - 1) / kLanes * kLanes), kept_(2 * p.kv_heads * p.head() * room_),
          ld_(panelled(widest(p)) + kLanes),
          scratch_(static_cast<int64_t>(sizeof(A)) * (rows_ * (p.depth * kept_ + 4 * ld_) + p.heads * room_) + 6 * 64) {
        past_ = scratch_.template take<A>(rows_ * p.depth * kept_);
        h_ = scratch_.template take<A>(rows_ * ld_);
        normed_ = scratch_.template take<A>(rows_ * ld_);
        wide_ = scratch_.template take<A>(rows_ * ld_);
        mixed_ = scratch_.template take<A>(rows_ * ld_);
        shares_ = scratch_.template take<A>(p.heads * room_);
    }

    void run() {
        for (int64_t e = 0; e < events_; ++e)
            ladj()[e] = A(0);
        if (p_.front == 0)
            for (int64_t e = 0; e < events_; ++e)
                copy(noise(e, 0), token(e, 0), p_.features);
        for (int64_t place = 0; place < p_.seen(); ++place) {
            Reader<A> weights(p_.weights);
            enter(place, weights.matrix(p_.features, p_.width));
            for (int64_t layer = 0; layer < p_.depth; ++layer)
                pass(place, layer, weights);
            if (place + 1 >= p_.front)
                move(place + 1 - p_.front, weights);
        }
    }

  private:
    static int64_t widest(const CausalDecode& p) {
        const int64_t hidden = (p.gated ? 2 : 1) * p.hidden, qkv = p.qkv(), out = p.parameters();
        const int64_t most = hidden > qkv ? hidden : qkv;
        return most > out ? most : out;
    }

    int64_t event(int64_t row) const { return row < events_ ? row : row - events_; }
    int64_t branch(int64_t row) const { return row < events_ ? 0 : 1; }
    A* token(int64_t e, int64_t i) const {
        return static_cast<A*>(p_.x) + ((first_ + e) * p_.tokens + i) * p_.features;
    }
    const A* noise(int64_t e, int64_t i) const {
        return static_cast<const A*>(p_.z) + (first_ + e) * p_.z_stride + i * p_.features;
    }
    A* ladj() const { return static_cast<A*>(p_.ladj) + first_; }

    // out (rows, m.out) = in m + bias, or += with Add
    template <bool Add> void linear(const A* in, const Matrix<A>& m, A* out) const {
        for (int64_t at = 0; at < m.out; at += kPanel) {
            for (int64_t r = 0; r < rows_; ++r)
#pragma omp simd
                for (int64_t j = 0; j < kPanel; ++j)
                    out[r * ld_ + at + j] = Add ? out[r * ld_ + at + j] + m.bias[at + j] : m.bias[at + j];
            for (int64_t k = 0; k < m.in; k += kStretch)
                gemm<true>(Rows<A>{in + k, ld_}, m.panels + at * m.in + k * kPanel, kPanel, out + at, ld_, rows_,
                           m.in - k < kStretch ? m.in - k : kStretch, kPanel);
        }
    }

    // What stands at a place in the width of the network.
    void enter(int64_t place, const Matrix<A>& first) {
        const bool ahead = place < p_.front;
        for (int64_t r = 0; r < rows_ && !ahead; ++r)
            copy(token(event(r), place - p_.front), normed_ + r * ld_, p_.features);
        if (!ahead)
            linear<false>(normed_, first, h_);
        for (int64_t r = 0; r < rows_; ++r) {
            A* const h = h_ + r * ld_;
            const int64_t b = branch(r), e = first_ + event(r);
            if (ahead)
                copy(static_cast<const A*>(p_.ahead[b]) + e * p_.ahead_stride[b] + place * p_.width, h, p_.width);
            else if (p_.shift[b] != nullptr)
                add(static_cast<const A*>(p_.shift[b]) + e * p_.shift_stride[b], h, p_.width);
            if (p_.places != nullptr)
                add(static_cast<const A*>(p_.places) + place * p_.width, h, p_.width);
        }
    }

    void pass(int64_t place, int64_t layer, Reader<A>& weights) {
        norm(h_, weights);
        linear<false>(normed_, weights.matrix(p_.width, p_.qkv()), wide_);
        const A* const q_gain = p_.qk_norm ? weights.vector(p_.head()) : nullptr;
        const A* const k_gain = p_.qk_norm ? weights.vector(p_.head()) : nullptr;
        for (int64_t r = 0; r < rows_; ++r)
            attend(r, place, layer, q_gain, k_gain);
        linear<true>(mixed_, weights.matrix(p_.width, p_.width), h_);
        norm(h_, weights);
        linear<false>(normed_, weights.matrix(p_.width, (p_.gated ? 2 : 1) * p_.hidden), wide_);
        for (int64_t r = 0; r < rows_; ++r)
            activate(wide_ + r * ld_);
        linear<true>(wide_, weights.matrix(p_.hidden, p_.width), h_);
    }

    void norm(const A* from, Reader<A>& weights) {
        const A* const gain = weights.vector(p_.width);
        const A* const bias = p_.rms ? nullptr : weights.vector(p_.width);
        for (int64_t r = 0; r < rows_; ++r) {
            const A* const h = from + r * ld_;
            A* const to = normed_ + r * ld_;
            A mean = A(0);
            if (!p_.rms) {
                RowSum<A> sum;
                sum.add(h, p_.width);
                mean = sum.total() / static_cast<A>(p_.width);
            }
#pragma omp simd
            for (int64_t j = 0; j < p_.width; ++j)
                to[j] = (h[j] - mean) * (h[j] - mean);
            RowSum<A> sum;
            sum.add(to, p_.width);
            const A rate = A(1) / detail::root_of(sum.total() / static_cast<A>(p_.width) + static_cast<A>(p_.eps));
            if (bias == nullptr)
#pragma omp simd
                for (int64_t j = 0; j < p_.width; ++j)
                    to[j] = h[j] * rate * gain[j];
            else
#pragma omp simd
                for (int64_t j = 0; j < p_.width; ++j)
                    to[j] = (h[j] - mean) * rate * gain[j] + bias[j];
        }
    }

    // One head's query or key, brought to a length and turned.
    void prepare(A* v, int64_t place, const A* gain) const {
        const int64_t d = p_.head(), half = d / 2;
        if (gain != nullptr) {
            A squares = A(0);
            for (int64_t j = 0; j < d; ++j)
                squares += v[j] * v[j];
            const A rate = A(1) / detail::root_of(squares / static_cast<A>(d) + A(1e-6));
            for (int64_t j = 0; j < d; ++j)
                v[j] = v[j] * rate * gain[j];
        }
        if (p_.cos == nullptr)
            return;
        const A* const cos = static_cast<const A*>(p_.cos) + place * half;
        const A* const sin = static_cast<const A*>(p_.sin) + place * half;
        for (int64_t j = 0; j < half; ++j) {
            const A a = v[j], b = v[j + half];
            v[j] = a * cos[j] - b * sin[j];
            v[j + half] = a * sin[j] + b * cos[j];
        }
    }

    // A row's attention of all heads to all places up to its own. Keys lie (block of kLanes places, channel, place),
    // values (place, channel).
    void attend(int64_t r, int64_t place, int64_t layer, const A* q_gain, const A* k_gain) {
        const int64_t d = p_.head(), group = p_.heads / p_.kv_heads;
        A* const q = wide_ + r * ld_;
        A *const k = q + p_.width, *const v = k + p_.kv_heads * d;
        const A scale = (branch(r) ? A(1) / static_cast<A>(p_.temperature) : A(1)) / detail::root_of(static_cast<A>(d));
        for (int64_t head = 0; head < p_.heads; ++head) {
            prepare(q + head * d, place, q_gain);
            for (int64_t j = 0; j < d; ++j)
                q[head * d + j] *= scale;
        }
        A* past = past_ + (r * p_.depth + layer) * kept_;
        for (int64_t head = 0; head < p_.kv_heads; ++head, past += 2 * d * room_) {
            A *const keys = past, *const values = past + d * room_;
            prepare(k + head * d, place, k_gain);
            A* const block = keys + place / kLanes * kLanes * d + place % kLanes;
            for (int64_t j = 0; j < d; ++j)
                block[j * kLanes] = k[head * d + j];
            copy(v + head * d, values + place * d, d);
            for (int64_t g = 0; g < group; ++g) {
                score(q + (head * group + g) * d, keys, place + 1, shares_ + g * room_);
                share(shares_ + g * room_, place + 1);
            }
            gemm<false>(Rows<A>{shares_, room_}, values, d, mixed_ + r * ld_ + head * group * d, d, group, place + 1,
                        d);
        }
    }

    // Products of a query with the keys at n places, those of up to four blocks side by side; what comes behind the
    // last place is not read.
    void score(const A* q, const A* keys, int64_t n, A* to) const {
        const int64_t blocks = (n + kLanes - 1) / kLanes, step = kLanes * p_.head();
        int64_t b = 0;
        for (; b + 4 <= blocks; b += 4)
            score_blocks<4>(q, keys + b * step, to + b * kLanes);
        for (; b < blocks; ++b)
            score_blocks<1>(q, keys + b * step, to + b * kLanes);
    }

    template <int Blocks> void score_blocks(const A* q, const A* keys, A* to) const {
        using Vec = typename Vector<A>::Type;
        constexpr int64_t width = kGemmVector<A>, parts = kLanes / width;
        const int64_t d = p_.head();
        Vec sum[Blocks][parts] = {};
        for (int64_t j = 0; j < d; ++j)
            for (int b = 0; b < Blocks; ++b)
                for (int64_t part = 0; part < parts; ++part)
                    sum[b][part] += q[j] * *reinterpret_cast<const Vec*>(keys + (b * d + j) * kLanes + part * width);
        for (int b = 0; b < Blocks; ++b)
            for (int64_t part = 0; part < parts; ++part)
                *reinterpret_cast<Vec*>(to + b * kLanes + part * width) = sum[b][part];
    }

    // Softmax of n logits.
    static void share(A* logits, int64_t n) {
        A most = logits[0];
        for (int64_t s = 1; s < n; ++s)
            most = logits[s] > most ? logits[s] : most;
#pragma omp simd
        for (int64_t s = 0; s < n; ++s)
            logits[s] = exp(logits[s] - most);
        RowSum<A> sum;
        sum.add(logits, n);
        const A over = A(1) / sum.total();
#pragma omp simd
        for (int64_t s = 0; s < n; ++s)
            logits[s] *= over;
    }

    void activate(A* u) const {
        if (p_.gated) {
#pragma omp simd
            for (int64_t j = 0; j < p_.hidden; ++j)
                u[j] = u[j] * gate(u[j]) * u[p_.hidden + j];
        } else {
#pragma omp simd
            for (int64_t j = 0; j < p_.hidden; ++j)
                u[j] = gelu_tanh_at(u[j]).value;
        }
    }

    static void add(const A* from, A* to, int64_t n) {
#pragma omp simd
        for (int64_t j = 0; j < n; ++j)
            to[j] += from[j];
    }

    // Token i of every event, from its noise and the parameters that the last place leads to.
    void move(int64_t i, Reader<A>& weights) {
        norm(h_, weights);
        linear<false>(normed_, weights.matrix(p_.width, p_.parameters()), wide_);
        const bool additive = p_.bound == Bound::Additive;
        for (int64_t e = 0; e < events_; ++e) {
            const A *const z = noise(e, i), *const own = wide_ + e * ld_, *const weak = own + events_ * ld_;
            A *const x = token(e, i), total = A(0);
            for (int64_t j = 0; j < p_.features; ++j) {
                Gauss<A> to = additive ? Gauss<A>{A(0), own[j]} : gaussian(own + 2 * j);
                if (p_.guidance != Guidance::None)
                    to = guided(p_.guidance, to, gaussian(weak + 2 * j), static_cast<const A*>(p_.guides)[i]);
                x[j] = additive ? z[j] + to.mean : z[j] * exp(to.log_scale) + to.mean;
                total += to.log_scale;
            }
            ladj()[e] += total;
        }
    }

    Gauss<A> gaussian(const A* raw) const {
        const A limit = static_cast<A>(p_.limit), over = A(1) / limit;
        if (p_.bound == Bound::Tanh)
            return {scale_of<false, Bound::Tanh>(raw[0], limit, over).s, raw[1]};
        if (p_.bound == Bound::Sigmoid)
            return {scale_of<false, Bound::Sigmoid>(raw[0], limit, over).s, raw[1]};
        if (p_.bound == Bound::Softplus)
            return {scale_of<false, Bound::Softplus>(soft_clipped(raw[0], limit, over) + A(kSoftOne), A(0), A(0)).s,
                    soft_clipped(raw[1], limit, over)};
        return {raw[0], raw[1]};
    }

    const CausalDecode& p_;
    int64_t first_, events_, rows_, room_, kept_, ld_;
    Scratch scratch_;
    A *past_, *h_, *normed_, *wide_, *mixed_, *shares_;
};

template <class A> void decode(const CausalDecode& p, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kEvents)
        Decoder<A>(p, first, end - first < kEvents ? end - first : kEvents).run();
}

} // namespace

namespace PFK_ISA {

void causal_decode(const CausalDecode& p, int64_t begin, int64_t end) {
    p.type == DType::F64 ? decode<double>(p, begin, end) : decode<float>(p, begin, end);
}

} // namespace PFK_ISA
} // namespace pfk::cpu
