// The attention of a training step of FPT or FPT+ on a CPU: few queries over stored keys and values, and narrow heads.
//
// A core processes one head at a time, reading it in its stored type. A vector holds one number of each of sixteen
// queries, so that the softmax works on whole vectors. For keys K, values V (n x d) and sixteen queries at a time,
//
//     S = K q     P = exp2(S - max) / sum       out = V' P
//     dP = V g    dS = P o (dP - sum P o dP)    dq = K' dS    dK = dS q'    dV = P g'
//
// with S, P, dP and dS (n x 16), and q, g, out and dq (d x 16); P is kept for the backward pass. q is scaled
// by log2(e) / sqrt(d) when it is read, and the gradients when they are written. Products are summed in fp32; their
// factors are rounded to bf16 only if the result is bf16 and the CPU multiplies pairs of bf16. The result does not
// depend on the number of threads.

#include <cmath>
#include <functional>
#include <memory>

#include "products.h"

using namespace fptplus;

namespace {

// One thread's buffer of numbers, which grows and never shrinks.
template <class T>
class Scratch {
public:
    T* at_least(int64_t count) {
        if (count > size_) {
            data_.reset(new T[count]());
            size_ = count;
        }
        return data_.get();
    }

private:
    std::unique_ptr<T[]> data_;
    int64_t size_ = 0;
};

// ---------------------------------------------------------------------------------------------- queries in the lanes

// Transposes vectors and lanes: four times, the first eight vectors and the last eight are interleaved.
inline void transpose(Vec (&tile)[LANES]) {
    Vec other[LANES];
    const auto shuffle = [](const Vec* from, Vec* to) {
        for (int i = 0; i < LANES / 2; ++i) {
            const Vec one = from[i], two = from[i + LANES / 2];
            to[2 * i] = __builtin_shufflevector(one, two, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            to[2 * i + 1] =
                __builtin_shufflevector(one, two, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
    };
    for (int twice = 0; twice < 2; ++twice) {
        shuffle(tile, other);
        shuffle(other, tile);
    }
}

// Loads `count` <= 16 rows of d numbers as d vectors, one row per lane, with zeros in lanes without a row.
template <class T>
void to_lanes(Rows<T> from, int64_t count, int64_t d, float factor, Vec* to) {
    in_sixteens(d, [=](int64_t c, auto width) {
        Vec tile[LANES] = {};
        for (int64_t lane = 0; lane < count; ++lane) tile[lane] = load(from[lane] + c, width) * factor;
        transpose(tile);
        for (int64_t i = 0; i < width; ++i) to[c + i] = tile[i];
    });
}

template <class T>
void from_lanes(const Vec* from, int64_t count, int64_t d, float factor, T* to, int64_t stride) {
    in_sixteens(d, [=](int64_t c, auto width) {
        Vec tile[LANES] = {};
        for (int64_t i = 0; i < width; ++i) tile[i] = from[c + i];
        transpose(tile);
        for (int64_t lane = 0; lane < count; ++lane) store(tile[lane] * factor, width, to + lane * stride + c);
    });
}

// Computes fold(fold(start, function(0)), function(1)) and so on, in four independent strands that need not wait.
template <class Fold, class Function>
inline Vec folded(int64_t count, Vec start, Fold fold, Function function) {
    Vec strands[4] = {start, start, start, start};
    int64_t r = 0;
    for (; r + 4 <= count; r += 4)
        for (int i = 0; i < 4; ++i) strands[i] = fold(strands[i], function(r + i));
    for (; r < count; ++r) strands[0] = fold(strands[0], function(r));
    return fold(fold(strands[0], strands[1]), fold(strands[2], strands[3]));
}

inline void multiply(const Vec* from, const float* factors, int64_t count, Vec* to) {
    for (int64_t c = 0; c < count; ++c) to[c] = factors ? from[c] * factors[c] : from[c];
}

// -------------------------------------------------------------------------------------------------------- one head

// A head of n tokens and d channels, and its results for sixteen queries, in buffers of this thread.
template <class Kind>
struct Head {
    typedef typename Kind::Number Number;
    typedef typename Kind::Lanes Lanes;
    typedef typename Kind::Factor Factor;

    int64_t n, d, pairs;  // n if numbers are not taken as pairs
    float scale;
    Factor* channel_room;
    Number* token_room;
    Vec *queries, *grads, *out, *scores, *probabilities;
    Lanes* lanes;
    Rows<char> next[2] = {};
    int64_t next_bytes = 0;

    Head(int64_t n, int64_t d)
        : n(n), d(d), pairs((n + Kind::DEPTH - 1) / Kind::DEPTH), scale(1.0f / std::sqrt(float(d))) {
        static thread_local Scratch<Factor> factors;
        static thread_local Scratch<std::remove_cv_t<Number>> numbers;
        static thread_local Scratch<Vec> vectors;
        static thread_local Scratch<Lanes> packed;
        channel_room = factors.at_least(n * d);
        token_room = numbers.at_least(pairs * d);
        queries = vectors.at_least(3 * d + 2 * (n + 1));
        grads = queries + d;
        out = grads + d;
        scores = out + d;
        probabilities = scores + n + 1;
        lanes = packed.at_least(std::max(n, d));
    }

    // Returns a matrix (n x d) in the type of the products: in place or, if its type differs, converted in `room`.
    template <class T>
    Rows<Number> by_channel(Rows<T> from, Factor* room) const {
        if constexpr (std::is_same_v<T, Factor>)
            if (from.stride % Kind::DEPTH == 0)
                return {reinterpret_cast<const Number*>(from.data), from.stride / Kind::DEPTH};
        for (int64_t r = 0; r < n; ++r)
            in_sixteens(d, [&](int64_t c, auto width) { store(load(from[r] + c, width), width, room + r * d + c); });
        return {reinterpret_cast<const Number*>(room), d / Kind::DEPTH};
    }

    // The same with the numbers of two tokens in pairs; the last token may be alone.
    template <class T>
    Rows<Number> by_token(Rows<T> from) const {
        if constexpr (Kind::DEPTH == 1) {
            return by_channel(from, token_room);
        } else {
            for (int64_t r = 0; r < n; r += 2)
                in_sixteens(d, [&](int64_t c, auto width) {
                    const Vec rows[] = {load(from[r] + c, width), r + 1 < n ? load(from[r + 1] + c, width) : Vec{}};
                    const Lanes both = Kind::packed(rows);
                    std::memcpy(token_room + r / 2 * d + c, &both, width * sizeof(Number));
                });
            return {token_room, d};
        }
    }

    // Prefetches rows of the next head that will be converted, while this head's softmax is computed.
    template <class T>
    void expect(Rows<T> keys, Rows<T> values) {
        const auto as_bytes = [](Rows<T> rows) {
            return Rows<char>{reinterpret_cast<const char*>(rows.data), rows.stride * int64_t(sizeof(T))};
        };
        next[0] = as_bytes(keys);
        next[1] = as_bytes(values);
        next_bytes = std::is_same_v<T, Factor> ? 0 : d * sizeof(T);
    }

    void fetch(int64_t row) const {
        for (int64_t byte = 0; byte < next_bytes; byte += 64)
            for (const auto& rows : next) __builtin_prefetch(rows[row] + byte, 0, 2);
    }

    static const Lanes* packed(const Vec* from, int64_t count, Lanes* to) {
        for (int64_t k = 0; k < count; k += Kind::DEPTH) to[k / Kind::DEPTH] = Kind::packed(from + k);
        return to;
    }

    // to[token] = sum over channels of a matrix by channel times vectors, one per channel.
    void over_channels(Rows<Number> by_channel, const Vec* vectors, Vec* to) const {
        rows_times<Kind>(by_channel, n, d / Kind::DEPTH, packed(vectors, d, lanes), to);
    }

    // to[channel] = sum over tokens of a matrix by token times vectors, one per token, which are left packed.
    void over_tokens(Rows<Number> by_token, Vec* vectors, Vec* to, Lanes* left) const {
        vectors[n] = Vec{};
        columns_times<Kind>(by_token, pairs, d, packed(vectors, n, left), to);
    }

    // out = V' P; leaves P in `kept`.
    void attend(Rows<Number> keys_by_channel, Rows<Number> values_by_token, Lanes* kept) const {
        over_channels(keys_by_channel, queries, scores);
        const auto larger = [](Vec one, Vec other) { return one > other ? one : other; };
        const Vec largest = folded(n, scores[0], larger, [&](int64_t r) { return scores[r]; });
        const Vec sum = folded(n, Vec{}, std::plus<Vec>(), [&](int64_t r) {
            fetch(r);
            return scores[r] = exp2_of(scores[r] - largest);
        });
        const Vec share = 1.0f / sum;
        for (int64_t r = 0; r < n; ++r) scores[r] *= share;
        over_tokens(values_by_token, scores, out, kept);
    }

    // Computes dS, in `scores`, and dq, in `out`, from the P that was kept.
    void differentiate(Rows<Number> keys_by_token, Rows<Number> values_by_channel, const Lanes* kept) const {
        over_channels(values_by_channel, grads, scores);
        for (int64_t k = 0; k < pairs; ++k) Kind::unpack(kept[k], probabilities + k * Kind::DEPTH);
        const Vec mean =
            folded(n, Vec{}, std::plus<Vec>(), [&](int64_t r) { return probabilities[r] * scores[r]; });
        for (int64_t r = 0; r < n; ++r) {
            fetch(r);
            scores[r] = probabilities[r] * (scores[r] - mean);
        }
        over_tokens(keys_by_token, scores, out, lanes);
    }

    // Where one head's P of the sixteen queries from `first` on is kept, in an array (..., 32-bit numbers).
    Lanes* kept(float* numbers, int64_t first) const {
        return reinterpret_cast<Lanes*>(numbers) + first / LANES * pairs;
    }
};

// ----------------------------------------------------------------------------------------- stored keys and values

// Keys or values (layers, images of a store, heads, n, d), and for int8 the batch's scales (layers, images, heads, d),
// which may have no data. If `chosen` (images,) has data, it says which of the store's images are in the batch.
struct Stored {
    const Array &numbers, &scales, &chosen;

    template <class T>
    Rows<T> of(int64_t layer, int64_t image, int64_t h) const {
        const int64_t place = chosen.data ? chosen.at<int64_t>(0)[image] : image;
        return {numbers.at<T>(layer, place, h), numbers.strides[3]};
    }
    const float* scales_of(int64_t layer, int64_t image, int64_t h) const {
        return scales.data ? scales.at<float>(layer, image, h) : nullptr;
    }
};

// queries (layers, heads, prompts, d) in fp32; out (layers, images, prompts, heads, d); kept (layers, images, heads, :).
template <class Kind, class T, class Out>
void stored_forward(
    const Array& queries, const Stored& keys, const Stored& values, const Array& out, const Array& kept, int threads
) {
    const int64_t images = out.sizes[1], prompts = out.sizes[2], heads = out.sizes[3], d = out.sizes[4];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < out.sizes[0] * heads; ++task) {
        const int64_t layer = task / heads, h = task % heads;
        Head<Kind> head(keys.numbers.sizes[3], d);
        static thread_local Scratch<Vec> scratch;
        Vec* of_all_images = scratch.at_least(d);
        for (int64_t first = 0; first < prompts; first += LANES) {
            const int64_t count = std::min<int64_t>(LANES, prompts - first);
            const Rows<float> rows = {queries.at<float>(layer, h, first), queries.strides[2]};
            to_lanes(rows, count, d, head.scale * LOG2_E, of_all_images);
            for (int64_t image = 0; image < images; ++image) {
                const auto key_rows = head.by_channel(keys.of<T>(layer, image, h), head.channel_room);
                const auto value_pairs = head.by_token(values.of<T>(layer, image, h));
                const int64_t next = std::min(image + 1, images - 1);
                head.expect(keys.of<T>(layer, next, h), values.of<T>(layer, next, h));
                multiply(of_all_images, keys.scales_of(layer, image, h), d, head.queries);
                head.attend(key_rows, value_pairs, head.kept(kept.at<float>(layer, image, h), first));
                multiply(head.out, values.scales_of(layer, image, h), d, head.out);
                from_lanes(head.out, count, d, 1.0f, out.at<Out>(layer, image, first, h), out.strides[2]);
            }
        }
    }
}

// grad is shaped like out; grad_queries like the queries, summed over the images.
template <class Kind, class T, class Out>
void stored_backward(
    const Stored& keys, const Stored& values, const Array& kept, const Array& grad, const Array& grad_queries, int threads
) {
    const int64_t images = grad.sizes[1], prompts = grad.sizes[2], heads = grad.sizes[3], d = grad.sizes[4];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < grad.sizes[0] * heads; ++task) {
        const int64_t layer = task / heads, h = task % heads;
        Head<Kind> head(keys.numbers.sizes[3], d);
        static thread_local Scratch<Vec> scratch;
        Vec* totals = scratch.at_least(d);
        for (int64_t first = 0; first < prompts; first += LANES) {
            const int64_t count = std::min<int64_t>(LANES, prompts - first);
            std::fill(totals, totals + d, Vec{});
            for (int64_t image = 0; image < images; ++image) {
                const auto key_pairs = head.by_token(keys.of<T>(layer, image, h));
                const auto value_rows = head.by_channel(values.of<T>(layer, image, h), head.channel_room);
                const int64_t next = std::min(image + 1, images - 1);
                head.expect(keys.of<T>(layer, next, h), values.of<T>(layer, next, h));
                const Rows<Out> grad_rows = {grad.at<Out>(layer, image, first, h), grad.strides[2]};
                to_lanes(grad_rows, count, d, 1.0f, head.grads);
                multiply(head.grads, values.scales_of(layer, image, h), d, head.grads);
                head.differentiate(key_pairs, value_rows, head.kept(kept.at<float>(layer, image, h), first));
                multiply(head.out, keys.scales_of(layer, image, h), d, head.out);
                for (int64_t c = 0; c < d; ++c) totals[c] += head.out[c];
            }
            from_lanes(totals, count, d, head.scale, grad_queries.at<float>(layer, h, first), grad_queries.strides[2]);
        }
    }
}

// --------------------------------------------------------------------------------------- attention of narrow heads

// Rows from `first` on of one head of a tensor (images, tokens, heads, d).
template <class T>
Rows<T> rows_of(const Array& array, int64_t image, int64_t h, int64_t first = 0) {
    return {array.at<T>(image, first, h), array.strides[1]};
}

// Queries and out (images, t, heads, d), keys and values (images, n, heads, d), kept (images, heads, :).
template <class Kind, class T>
void side_forward(
    const Array& queries, const Array& keys, const Array& values, const Array& out, const Array& kept, int threads
) {
    const int64_t t = out.sizes[1], heads = out.sizes[2], d = out.sizes[3];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < out.sizes[0] * heads; ++task) {
        const int64_t image = task / heads, h = task % heads;
        const Head<Kind> head(keys.sizes[1], d);
        const auto key_rows = head.by_channel(rows_of<T>(keys, image, h), head.channel_room);
        const auto value_pairs = head.by_token(rows_of<T>(values, image, h));
        for (int64_t first = 0; first < t; first += LANES) {
            const int64_t count = std::min<int64_t>(LANES, t - first);
            to_lanes(rows_of<T>(queries, image, h, first), count, d, head.scale * LOG2_E, head.queries);
            head.attend(key_rows, value_pairs, head.kept(kept.at<float>(image, h), first));
            from_lanes(head.out, count, d, 1.0f, out.at<T>(image, first, h), out.strides[1]);
        }
    }
}

// Sums of outer products over the queries, such as dK = sum of dS q', as rows (n x d) of pieces.
template <class Kind>
class OuterProducts {
public:
    OuterProducts(int64_t n, int64_t d, Scratch<PieceVec>& totals, Scratch<uint32_t>& factors)
        : n_(n), d_(d), pitch_((d + PIECE - 1) / PIECE), rows_((n + BLOCK - 1) / BLOCK * BLOCK) {
        totals_ = totals.at_least(rows_ * pitch_);
        factors_ = reinterpret_cast<typename Kind::Number*>(factors.at_least(rows_ * DEPTH));
        std::fill(totals_, totals_ + rows_ * pitch_, PieceVec{});
    }

    // Adds the products of sixteen queries: n vectors, one per token, times rows, which only the first `count` have.
    template <class T>
    void add(const Vec* vectors, Rows<T> rows, int64_t count) {
        for (int64_t r = 0; r < n_; ++r) Kind::pack_along(vectors[r], factors_ + r * DEPTH);
        for (int64_t piece = 0; piece < pitch_; ++piece) {
            PieceVec numbers[LANES] = {};
            for (int64_t lane = 0; lane < count; ++lane) {
                const Vec row = load_piece(rows[lane] + piece * PIECE, d_ - piece * PIECE);
                std::memcpy(numbers + lane, &row, sizeof(PieceVec));
            }
            typename Kind::Piece packed[DEPTH];
            for (int64_t k = 0; k < DEPTH; ++k) packed[k] = Kind::packed_pieces(numbers + k * Kind::DEPTH);
            for (int64_t r = 0; r < rows_; r += BLOCK) {
                PieceVec sums[BLOCK], *to = totals_ + r * pitch_ + piece;
                for (int i = 0; i < BLOCK; ++i) sums[i] = to[i * pitch_];
                for (int64_t k = 0; k < DEPTH; ++k)
                    for (int i = 0; i < BLOCK; ++i)
                        sums[i] = Kind::add_product(sums[i], factors_[(r + i) * DEPTH + k], packed[k]);
                for (int i = 0; i < BLOCK; ++i) to[i * pitch_] = sums[i];
            }
        }
    }

    template <class T>
    void write(float factor, T* to, int64_t stride) const {
        for (int64_t r = 0; r < n_; ++r) {
            const float* from = reinterpret_cast<const float*>(totals_ + r * pitch_);
            in_sixteens(d_, [&](int64_t c, auto width) {
                store(load(from + c, width) * factor, width, to + r * stride + c);
            });
        }
    }

private:
    static constexpr int64_t DEPTH = LANES / Kind::DEPTH;

    template <class T>
    static Vec load_piece(const T* from, int64_t left) {
        return left >= PIECE ? load(from, std::integral_constant<int64_t, PIECE>{}) : load(from, left);
    }

    int64_t n_, d_, pitch_, rows_;
    PieceVec* totals_;
    typename Kind::Number* factors_;
};

// grad is shaped like out; each of the three gradients like what it is the gradient of.
template <class Kind, class T>
void side_backward(
    const Array& queries, const Array& keys, const Array& values, const Array& kept, const Array& grad,
    const Array& grad_queries, const Array& grad_keys, const Array& grad_values, int threads
) {
    const int64_t t = grad.sizes[1], n = keys.sizes[1], heads = grad.sizes[2], d = grad.sizes[3];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < grad.sizes[0] * heads; ++task) {
        const int64_t image = task / heads, h = task % heads;
        const Head<Kind> head(n, d);
        const auto key_pairs = head.by_token(rows_of<T>(keys, image, h));
        const auto value_rows = head.by_channel(rows_of<T>(values, image, h), head.channel_room);
        static thread_local Scratch<PieceVec> of_keys, of_values;
        static thread_local Scratch<uint32_t> factors;
        OuterProducts<Kind> key_sums(n, d, of_keys, factors), value_sums(n, d, of_values, factors);
        for (int64_t first = 0; first < t; first += LANES) {
            const int64_t count = std::min<int64_t>(LANES, t - first);
            const auto grad_rows = rows_of<T>(grad, image, h, first);
            to_lanes(grad_rows, count, d, 1.0f, head.grads);
            head.differentiate(key_pairs, value_rows, head.kept(kept.at<float>(image, h), first));
            from_lanes(head.out, count, d, head.scale, grad_queries.at<T>(image, first, h), grad_queries.strides[1]);
            key_sums.add(head.scores, rows_of<T>(queries, image, h, first), count);
            value_sums.add(head.probabilities, grad_rows, count);
        }
        key_sums.write(head.scale, grad_keys.at<T>(image, 0, h), grad_keys.strides[1]);
        value_sums.write(1.0f, grad_values.at<T>(image, 0, h), grad_values.strides[1]);
    }
}
}  // namespace

extern "C" {

// How many 32-bit numbers are kept per head for the backward pass.
int64_t fptplus_kept_numbers(int64_t queries, int64_t tokens, int64_t channels, int64_t type) {
    int64_t pairs = 0;
    with_kind(type, channels, [&](auto kind) { pairs = Head<decltype(kind)>(tokens, channels).pairs; });
    return (queries + LANES - 1) / LANES * LANES * pairs;
}

void fptplus_stored_forward(
    const Array* queries, const Array* keys, const Array* key_scales, const Array* values, const Array* value_scales,
    const Array* chosen, const Array* out, const Array* kept, int threads
) {
    with_stored_type(*keys, [&](auto number) {
        with_float_type(*out, [&](auto result) {
            with_kind(out->type, out->sizes[4], [&](auto kind) {
                stored_forward<decltype(kind), decltype(number), decltype(result)>(
                    *queries, {*keys, *key_scales, *chosen}, {*values, *value_scales, *chosen}, *out, *kept, threads);
            });
        });
    });
}

void fptplus_stored_backward(
    const Array* keys, const Array* key_scales, const Array* values, const Array* value_scales, const Array* chosen,
    const Array* kept, const Array* grad, const Array* grad_queries, int threads
) {
    with_stored_type(*keys, [&](auto number) {
        with_float_type(*grad, [&](auto result) {
            with_kind(grad->type, grad->sizes[4], [&](auto kind) {
                stored_backward<decltype(kind), decltype(number), decltype(result)>(
                    {*keys, *key_scales, *chosen}, {*values, *value_scales, *chosen}, *kept, *grad, *grad_queries, threads);
            });
        });
    });
}

void fptplus_side_forward(
    const Array* queries, const Array* keys, const Array* values, const Array* out, const Array* kept, int threads
) {
    with_float_type(*queries, [&](auto number) {
        with_kind(queries->type, queries->sizes[3], [&](auto kind) {
            side_forward<decltype(kind), decltype(number)>(*queries, *keys, *values, *out, *kept, threads);
        });
    });
}

void fptplus_side_backward(
    const Array* queries, const Array* keys, const Array* values, const Array* kept, const Array* grad,
    const Array* grad_queries, const Array* grad_keys, const Array* grad_values, int threads
) {
    with_float_type(*queries, [&](auto number) {
        with_kind(queries->type, queries->sizes[3], [&](auto kind) {
            side_backward<decltype(kind), decltype(number)>(
                *queries, *keys, *values, *kept, *grad, *grad_queries, *grad_keys, *grad_values, threads);
        });
    });
}

}  // extern "C"
