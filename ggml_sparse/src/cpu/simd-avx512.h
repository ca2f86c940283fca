#pragma once

// simd.h for AVX-512 with BW, DQ, VL and VNNI.

#include "simd-x86.h"

namespace ggml_sparse {
namespace {

constexpr int W = 16;
using vf        = __m512;
using vi        = __m512i;
using vq        = __m512i;

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }

inline vf    vf_set1(float a) { return _mm512_set1_ps(a); }
inline vf    vf_load(const float * p) { return _mm512_loadu_ps(p); }
inline vf    vf_load_n(const float * p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void  vf_store(float * p, vf a) { _mm512_storeu_ps(p, a); }
inline void  vf_store_n(float * p, vf a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
inline vf    vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
inline vf    vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf    vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }

inline vf vf_load_f16(const uint16_t * p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline vf vf_load_bf16(const uint16_t * p) {
    const __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
inline vf vf_load_i8(const int8_t * p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}

// --- halfs `STRIDE` bytes apart ---------------------------------------------------

// W of them: those of one 64-byte window at a time; never reads behind W * STRIDE bytes.
template <int STRIDE> inline vf vf_load_halfs(const uint8_t * w) {
    constexpr int       WINDOW = STRIDE <= 20 ? 4 : 2;
    constexpr __mmask32 INSIDE = WINDOW * STRIDE < 64 ? (1u << WINDOW * STRIDE / 2 % 32) - 1 : 0xffffffff;
    const __m512i       lane =
        _mm512_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i all = _mm512_setzero_si512();
    for (int b = 0; b < W; b += WINDOW) {
        const __mmask32 those = ((1u << WINDOW) - 1) << b;
        const __m512i   nth   = _mm512_sub_epi16(lane, _mm512_set1_epi16(static_cast<int16_t>(b)));
        const __m512i   word  = _mm512_mullo_epi16(nth, _mm512_set1_epi16(STRIDE / 2));
        all                   = _mm512_mask_permutexvar_epi16(all, those, word, _mm512_maskz_loadu_epi16(INSIDE, w + b * STRIDE));
    }
    return _mm512_cvtph_ps(_mm512_castsi512_si256(all));
}

// --- quants --------------------------------------------------------------------------

inline vq      vq_load(const void * p) { return _mm512_loadu_si512(p); }
inline void    vq_store(int8_t * p, vq a) { _mm512_storeu_si512(p, a); }
inline vq      vq_low(vq a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline vq      vq_high(vq a) { return vq_low(_mm512_srli_epi16(a, 4)); }
inline __m128i load_piece(const uint8_t * w) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(w)); }
inline vq      vq_repeat(const uint8_t * w) { return _mm512_broadcast_i32x4(load_piece(w)); }
inline vq      vq_gather(const uint8_t * w, int stride) {
    vq a = _mm512_castsi128_si512(load_piece(w));
    a    = _mm512_mask_broadcast_i32x4(a, 0x00f0, load_piece(w + stride));
    a    = _mm512_mask_broadcast_i32x4(a, 0x0f00, load_piece(w + 2 * stride));
    return _mm512_mask_broadcast_i32x4(a, 0xf000, load_piece(w + 3 * stride));
}
inline void vq_split(const uint8_t * w, vq & a, vq & b) {
    const __m512i p = _mm512_loadu_si512(w), q = _mm512_loadu_si512(w + 64);
    a = _mm512_shuffle_i32x4(p, q, 0x88);
    b = _mm512_shuffle_i32x4(p, q, 0xdd);
}
inline vq vq_add_16_where(vq a, vq bits, vq bit) {
    return _mm512_mask_add_epi8(a, _mm512_test_epi8_mask(bits, bit), a, _mm512_set1_epi8(16));
}
inline void vq_add_fifth_bits(const uint8_t * w, int stride, vq & a, vq & b) {
    auto word = [](const uint8_t * p) {
        int32_t h;
        memcpy(&h, p, sizeof(h));
        return h;
    };
    __m512i bits      = _mm512_set1_epi32(word(w));
    bits              = _mm512_mask_set1_epi32(bits, 0x00f0, word(w + stride));
    bits              = _mm512_mask_set1_epi32(bits, 0x0f00, word(w + 2 * stride));
    bits              = _mm512_mask_set1_epi32(bits, 0xf000, word(w + 3 * stride));
    const __m512i bit = _mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201));
    const __m512i one = _mm512_set4_epi32(0x01010101, 0x01010101, 0, 0);
    a                 = vq_add_16_where(a, _mm512_shuffle_epi8(bits, one), bit);
    b                 = vq_add_16_where(b, _mm512_shuffle_epi8(bits, _mm512_add_epi8(one, _mm512_set1_epi8(2))), bit);
}
inline void vq_load_six_bits(const uint8_t * w, int half, int, vq & a, vq & b) {
    const __m512i low  = _mm512_loadu_si512(w + 64 * half);
    const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(w + 128 + 32 * half)));
    const __m512i high = _mm512_srlv_epi16(both, _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1));
    const __m512i m = _mm512_set1_epi8(15), six = _mm512_set1_epi8(63);
    a = _mm512_and_si512(_mm512_ternarylogic_epi32(m, low, _mm512_slli_epi16(high, 4), 0xca), six); // m ? low : high << 4
    b = _mm512_and_si512(_mm512_ternarylogic_epi32(m, _mm512_srli_epi16(low, 4), high, 0xca), six);
}

// --- int32 sums ----------------------------------------------------------------------

inline vi vi_zero() { return _mm512_setzero_si512(); }
inline vi vi_load(const int32_t * p) { return _mm512_loadu_si512(p); }
inline vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
inline vi vi_shift_left(vi a, int n) { return _mm512_slli_epi32(a, static_cast<unsigned>(n)); }
inline vf vf_from(vi a) { return _mm512_cvtepi32_ps(a); }
inline vi vi_dot(vq a, vq x) { return _mm512_dpbusd_epi32(_mm512_setzero_si512(), a, x); }
inline vi vi_dot2(vq a, vq x, vq b, vq y) { return _mm512_dpbusd_epi32(vi_dot(a, x), b, y); }

constexpr int SIGNED_SHIFT = 7; // a + 128 is unsigned
inline vi     vi_dot2_signed(vq a, vq x, vq b, vq y) {
    const __m512i sign = _mm512_set1_epi8(-128);
    return vi_dot2(_mm512_xor_si512(a, sign), x, _mm512_xor_si512(b, sign), y);
}
inline vi vi_transpose_add(vi a, vi b, vi c, vi d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}
inline vi   vi_pairs_in_order(vi a) { return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), a); }
inline void vi_even_odd(const vi * low, const vi * high, vi & even, vi & odd) {
    // lane 4 j + g of one 256 is piece 4 g + j: 0 4 8 12  1 5 9 13  2 6 10 14  3 7 11 15
    const __m512i first = vi_transpose_add(low[0], high[0], low[1], high[1]), second = vi_transpose_add(low[2], high[2], low[3], high[3]);
    const __m512i at = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
    even             = _mm512_permutex2var_epi32(first, at, second);
    odd              = _mm512_permutex2var_epi32(first, _mm512_add_epi32(at, _mm512_set1_epi32(4)), second);
}

// --- scales of 256-wide blocks ---------------------------------------------------------

// Of blocks p * W .. of two q4_K or q5_K: d * scale and -dmin * minimum, both exact.
template <int BYTES> inline void load_k_scales(const uint8_t * w, int, vf & d, vf & m) {
    const __m128i s0 = k_scale_bytes(w), s1 = k_scale_bytes(w + BYTES);
    const __m512  dm = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_unpacklo_epi32(load_piece(w), load_piece(w + BYTES))));
    const __m512i at = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
    const __m512  dd = _mm512_permutexvar_ps(at, dm), mm = _mm512_permutexvar_ps(_mm512_add_epi32(at, _mm512_set1_epi32(1)), dm);
    d = vf_mul(dd, vf_from(_mm512_cvtepu8_epi32(_mm_unpacklo_epi64(s0, s1))));
    m = vf_mul(mm, vf_from(_mm512_sub_epi32(_mm512_setzero_si512(), _mm512_cvtepu8_epi32(_mm_unpackhi_epi64(s0, s1)))));
}
// Of the halves of blocks p * W .. of two q6_K.
inline void load_q6_scales(const uint8_t * w, int, vf & even, vf & odd) {
    const __m512i s0 = _mm512_cvtepi8_epi32(load_piece(w + 192)), s1 = _mm512_cvtepi8_epi32(load_piece(w + 210 + 192));
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512  d0 = _mm512_set1_ps(load_half(w + 208)), d1 = _mm512_set1_ps(load_half(w + 210 + 208));
    const __m512  d = _mm512_mask_mov_ps(d0, 0xff00, d1);
    even            = vf_mul(d, vf_from(_mm512_permutex2var_epi32(s0, at, s1)));
    odd             = vf_mul(d, vf_from(_mm512_permutex2var_epi32(s0, _mm512_add_epi32(at, _mm512_set1_epi32(1)), s1)));
}

// --- packed units (packed-unit.h) ---------------------------------------------------------

// u, and `MASK` where a byte of bits << left (>> -left) has it.
template <int MASK> inline vq vq_or_bits(vq u, vq bits, int left) {
    const vq moved =
        left < 0 ? _mm512_srli_epi16(bits, static_cast<unsigned>(-left)) : _mm512_slli_epi16(bits, static_cast<unsigned>(left));
    return _mm512_ternarylogic_epi32(u, moved, _mm512_set1_epi8(MASK), 0xf8); // u | (moved & mask)
}
// sum + dots of N vectors of unsigned quants below 1 << BITS with vectors of x, 64 bytes apart.
template <int BITS, int N> inline vi vi_dots(vi sum, const vq * u, const int8_t * x) {
    for (int i = 0; i < N; ++i) {
        sum = _mm512_dpbusd_epi32(sum, u[i], vq_load(x + 64 * i));
    }
    return sum;
}
// The first or second of two halfs, for blocks 0 .. 7 or 8 .. 15.
inline vf vf_by_super(const uint8_t * halfs, int) {
    int32_t both;
    memcpy(&both, halfs, sizeof(both));
    const __m512  d  = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128(both)));
    const __m512i at = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return _mm512_permutexvar_ps(at, d);
}
// Six-bit scales and minima of 16 blocks, in 24 bytes: block l's scale and its minimum's low two bits in
// byte l, the other four in byte 16 + l % 8.
inline void load_packed_k(const uint8_t * w, int, vf & scale, vf & minimum) {
    const __m512i low  = _mm512_cvtepu8_epi32(load_piece(w));
    const __m512i high = _mm512_cvtepu8_epi32(_mm_castpd_si128(_mm_loaddup_pd(reinterpret_cast<const double *>(w + 16))));
    const __m512i up   = _mm512_sllv_epi32(high, _mm512_setr_epi32(8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4));
    const __m512i all = _mm512_ternarylogic_epi32(_mm512_set1_epi32(255), low, up, 0xca), six = _mm512_set1_epi32(63); // 255 ? low : up
    scale   = vf_from(_mm512_and_si512(all, six));
    minimum = vf_from(_mm512_and_si512(_mm512_srli_epi32(all, 6), six));
}

// --- tables of sixteen values -------------------------------------------------------------

#define SIMD_HAS_TABLES

inline vf vf_table(float d, float m) { // d * i + m
    const vf i = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return vf_fma(vf_set1(d), i, vf_set1(m));
}
inline vf vf_table_of_signed(float d) { // d * (i - 8)
    return vf_mul(vf_set1(d), _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
}
inline vf vf_look_up(vf table, vi i) { return _mm512_permutexvar_ps(i, table); } // by the low four bits
inline vi vi_load_bytes(const uint8_t * w) { return _mm512_cvtepu8_epi32(load_piece(w)); }
inline vi vi_shift_right(vi a, int n) { return _mm512_srli_epi32(a, static_cast<unsigned>(n)); }

} // namespace
} // namespace ggml_sparse
