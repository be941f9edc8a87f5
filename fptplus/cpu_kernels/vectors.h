// What the kernels share: vectors of sixteen numbers, the types that numbers are stored in, and tensor arguments.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define FPTPLUS_AVX512
#endif

namespace fptplus {

constexpr int LANES = 16;
constexpr float LOG2_E = 1.4426950408889634f;

typedef float Vec __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t BitsVec __attribute__((vector_size(4 * LANES), may_alias));
typedef uint16_t HalfWords __attribute__((vector_size(2 * LANES)));

// ---------------------------------------------------------------------------------------------------------- numbers

struct BFloat16 {
    uint16_t bits;
};

inline float widened(float x) { return x; }
inline float widened(int8_t x) { return x; }
inline float widened(uint8_t x) { return x; }
inline float widened(BFloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

// load(from, count) returns the first `count` <= 16 numbers, then zeros; store(vector, count, to) writes only those.
// With AVX-512 each is a single masked instruction, which no compiler finds by itself.

#ifdef FPTPLUS_AVX512
inline __mmask16 mask_of(int64_t count) { return __mmask16((1u << count) - 1); }

inline Vec load(const float* from, int64_t count) { return (Vec)_mm512_maskz_loadu_ps(mask_of(count), from); }
inline Vec load(const int8_t* from, int64_t count) {
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask_of(count), from)));
}
inline Vec load(const uint8_t* from, int64_t count) {
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask_of(count), from)));
}
inline Vec load(const BFloat16* from, int64_t count) {
    return (Vec)(BitsVec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask_of(count), from)), 16);
}
#else
template <class T>
inline Vec load(const T* from, int64_t count) {
    Vec to = {};
    for (int64_t i = 0; i < count; ++i) to[i] = widened(from[i]);
    return to;
}
#endif

inline HalfWords narrowed(Vec x) {  // rounded to the nearest, ties to even
#ifdef __AVX512BF16__
    return (HalfWords)_mm512_cvtneps_pbh((__m512)x);
#else
    BitsVec bits = (BitsVec)x;
    bits += 0x7fff + ((bits >> 16) & 1);
    return __builtin_convertvector((x == x ? bits : BitsVec{} + 0x7fc00000) >> 16, HalfWords);
#endif
}

#ifdef FPTPLUS_AVX512
inline void store(Vec from, int64_t count, float* to) { _mm512_mask_storeu_ps(to, mask_of(count), (__m512)from); }
inline void store(Vec from, int64_t count, BFloat16* to) {
    _mm256_mask_storeu_epi16(to, mask_of(count), (__m256i)narrowed(from));
}
#else
inline void store(Vec from, int64_t count, float* to) { std::memcpy(to, &from, count * sizeof *to); }
inline void store(Vec from, int64_t count, BFloat16* to) {
    const HalfWords narrow = narrowed(from);
    std::memcpy(to, &narrow, count * sizeof *to);
}
#endif

// Returns the first `count` <= 16 numbers of a vector, then zeros.
inline Vec first_of(Vec vector, int64_t count) {
#ifdef FPTPLUS_AVX512
    return (Vec)_mm512_maskz_mov_ps(mask_of(count), (__m512)vector);
#else
    for (int64_t i = count; i < LANES; ++i) vector[i] = 0;
    return vector;
#endif
}

inline float sum_of(Vec vector) {
#ifdef FPTPLUS_AVX512
    return _mm512_reduce_add_ps((__m512)vector);
#else
    float numbers[LANES];
    std::memcpy(numbers, &vector, sizeof numbers);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
    return numbers[0];
#endif
}

// Calls function(first, count) for `size` numbers, sixteen at a time; `count` is constant unless the rest is not eight.
template <class Function>
inline void in_sixteens(int64_t size, Function function) {
    int64_t first = 0;
    for (; first + LANES <= size; first += LANES) function(first, std::integral_constant<int64_t, LANES>{});
    if (size - first == LANES / 2) function(first, std::integral_constant<int64_t, LANES / 2>{});
    else if (first < size) function(first, size - first);
}

inline Vec exp2_of(Vec x) {
    const Vec magic = Vec{} + 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
    const Vec bounded = x < -126.0f ? Vec{} - 126.0f : x;
    const Vec shifted = bounded + magic;
    const Vec r = bounded - (shifted - magic);
    Vec y = r * 1.5403530e-4f + 1.3333558e-3f;  // Taylor's series of 2^r, |r| <= 1/2: the rest is below 2e-7
    y = y * r + 9.6181291e-3f;
    y = y * r + 5.5504109e-2f;
    y = y * r + 2.4022651e-1f;
    y = y * r + 6.9314718e-1f;
    y = y * r + 1.0f;
    return (Vec)((IntVec)y + (((IntVec)shifted - (IntVec)magic) << 23));  // for NaN, this adds 0 to NaN
}

// -------------------------------------------------------------------------------------------------------- arguments

enum Type : int64_t { FP32, BF16, INT8, BYTES, INT64 };

struct Array {  // a tensor of up to five axes, contiguous in the last dimension; strides count numbers
    void* data;
    int64_t type;
    int64_t sizes[5];
    int64_t strides[5];

    template <class T>
    T* at(int64_t a, int64_t b = 0, int64_t c = 0, int64_t d = 0) const {
        return static_cast<T*>(data) + a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3];
    }
};

template <class Function>
void with_float_type(const Array& array, Function function) {
    array.type == BF16 ? function(BFloat16{}) : function(float{});
}

template <class Function>
void with_stored_type(const Array& array, Function function) {
    array.type == INT8 ? function(int8_t{}) : with_float_type(array, function);
}

}  // namespace fptplus
