// Products of a matrix with vectors of sixteen numbers, summed in fp32.
//
// A kind of product defines what its factors are rounded to, how many numbers of the matrix it takes at once (in bf16 a
// pair, whose two products are summed as one), and what that many vectors are packed into. A piece is half a vector.

#pragma once

#include "vectors.h"

namespace fptplus {

constexpr int BLOCK = 8;  // vectors summed at once: enough to hide the latency of a multiplication
constexpr int PIECE = LANES / 2;

typedef float PieceVec __attribute__((vector_size(4 * PIECE), may_alias));
typedef uint32_t PieceBits __attribute__((vector_size(4 * PIECE), may_alias));
typedef uint16_t Words __attribute__((vector_size(4 * LANES)));

struct InFp32 {
    typedef float Factor;
    typedef float Number;
    typedef Vec Lanes;
    typedef PieceVec Piece;
    static constexpr int DEPTH = 1;

    template <class V>
    static V add_product(V sum, Number a, V b) { return sum + a * b; }
    static Lanes packed(const Vec* vectors) { return vectors[0]; }
    static void unpack(Lanes lanes, Vec* to) { to[0] = lanes; }
    static void pack_along(Vec vector, Number* to) { std::memcpy(to, &vector, sizeof vector); }
    static Piece packed_pieces(const PieceVec* pieces) { return pieces[0]; }
};

#ifdef __AVX512BF16__
struct InBf16 {
    typedef BFloat16 Factor;
    typedef uint32_t __attribute__((aligned(2), may_alias)) Number;
    typedef BitsVec Lanes;
    typedef PieceBits Piece;
    static constexpr int DEPTH = 2;

    static Vec add_product(Vec sum, Number a, Lanes b) {
        return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
    }
    static PieceVec add_product(PieceVec sum, Number a, Piece b) {
        return (PieceVec)_mm256_dpbf16_ps((__m256)sum, (__m256bh)_mm256_set1_epi32(a), (__m256bh)b);
    }
    static Lanes packed(const Vec* vectors) {
        const __m512bh one_by_one = _mm512_cvtne2ps_pbh((__m512)vectors[1], (__m512)vectors[0]);
        const Words in_turn = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
        return (BitsVec)_mm512_permutexvar_epi16((__m512i)in_turn, (__m512i)one_by_one);
    }
    static void unpack(Lanes lanes, Vec* to) {
        to[0] = (Vec)(lanes << 16);
        to[1] = (Vec)(lanes & 0xffff0000u);
    }
    static void pack_along(Vec vector, Number* to) { store(vector, LANES, reinterpret_cast<BFloat16*>(to)); }
    static Piece packed_pieces(const PieceVec* pieces) {
        Vec both;
        std::memcpy(&both, pieces, sizeof both);
        const BitsVec words = __builtin_convertvector(narrowed(both), BitsVec);
        const PieceBits* halves = reinterpret_cast<const PieceBits*>(&words);
        return halves[0] | halves[1] << 16;
    }
};
#endif

// Chooses the kind for numbers of a type; pairs need an even number of channels.
template <class Function>
void with_kind(int64_t type, [[maybe_unused]] int64_t channels, Function function) {
#ifdef __AVX512BF16__
    if (type == BF16 && channels % 2 == 0) return function(InBf16{});
#endif
    function(InFp32{});
}

template <class T>
struct Rows {  // rows of a matrix, `stride` numbers apart
    const T* data;
    int64_t stride;

    const T* operator[](int64_t row) const { return data + row * stride; }
};

// Covers `count` numbers in steps of BLOCK, where the last may overlap the one before; in steps of one if too few.
template <class Function>
inline void in_blocks(int64_t count, Function function) {
    if (count < BLOCK)
        for (int64_t i = 0; i < count; ++i) function(i, std::integral_constant<int, 1>{});
    else
        for (int64_t i = 0; i < count; i += BLOCK)
            function(std::min(i, count - BLOCK), std::integral_constant<int, BLOCK>{});
}

// out[r] = sum over k < depth of a[r][k] * b[k], for r < rows.
template <class Kind>
void rows_times(Rows<typename Kind::Number> a, int64_t rows, int64_t depth, const typename Kind::Lanes* b, Vec* out) {
    in_blocks(rows, [=](int64_t r, auto size) {
        Vec sums[size];
        for (int i = 0; i < size; ++i) sums[i] = Kind::add_product(Vec{}, a[r + i][0], b[0]);
        for (int64_t k = 1; k < depth; ++k)
            for (int i = 0; i < size; ++i) sums[i] = Kind::add_product(sums[i], a[r + i][k], b[k]);
        for (int i = 0; i < size; ++i) out[r + i] = sums[i];
    });
}

// out[c] = sum over r < rows of a[r][c] * b[r], for c < columns.
template <class Kind>
void columns_times(
    Rows<typename Kind::Number> a, int64_t rows, int64_t columns, const typename Kind::Lanes* b, Vec* out
) {
    in_blocks(columns, [=](int64_t c, auto size) {
        Vec sums[size];
        for (int i = 0; i < size; ++i) sums[i] = Kind::add_product(Vec{}, a[0][c + i], b[0]);
        for (int64_t r = 1; r < rows; ++r)
            for (int i = 0; i < size; ++i) sums[i] = Kind::add_product(sums[i], a[r][c + i], b[r]);
        for (int i = 0; i < size; ++i) out[c + i] = sums[i];
    });
}

}  // namespace fptplus
