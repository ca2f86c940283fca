#pragma once

// simd.h for AVX2 with FMA and F16C, and AVX-VNNI where the compiler was told so.

#include "simd-x86.h"

namespace ggml_sparse {
namespace {

constexpr int W = 8;
using vf        = __m256;
using vi        = __m256i;
using vq        = __m256i;

inline vf vf_set1(float a) { return _mm256_set1_ps(a); }
inline vf vf_load(const float * p) { return _mm256_loadu_ps(p); }
inline vf vf_load_n(const float * p, int n) {
    float t[W] = {};
    memcpy(t, p, static_cast<size_t>(n) * sizeof(float));
    return vf_load(t);
}
inline void vf_store(float * p, vf a) { _mm256_storeu_ps(p, a); }
inline void vf_store_n(float * p, vf a, int n) {
    float t[W];
    vf_store(t, a);
    memcpy(p, t, static_cast<size_t>(n) * sizeof(float));
}
inline vf    vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
inline vf    vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
inline vf    vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline float vf_sum(vf a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s        = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

inline vf vf_load_f16(const uint16_t * p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }
inline vf vf_load_bf16(const uint16_t * p) {
    const __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
inline vf vf_load_i8(const int8_t * p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}

// --- halfs `STRIDE` bytes apart ---------------------------------------------------

template <int STRIDE> inline vf vf_load_halfs(const uint8_t * w) {
    auto half = [=](int k) { return static_cast<int16_t>(w[k * STRIDE] | w[k * STRIDE + 1] << 8); };
    return _mm256_cvtph_ps(_mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7)));
}

// --- quants --------------------------------------------------------------------------

inline __m128i load_piece(const uint8_t * w) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(w)); }
inline vq      vq_load(const void * p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void    vq_store(int8_t * p, vq a) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), a); }
inline vq      vq_low(vq a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline vq      vq_high(vq a) { return vq_low(_mm256_srli_epi16(a, 4)); }
inline vq      vq_repeat(const uint8_t * w) { return _mm256_broadcastsi128_si256(load_piece(w)); }
inline vq      vq_gather(const uint8_t * w, int stride) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_piece(w)), load_piece(w + stride), 1);
}
inline void vq_split(const uint8_t * w, vq & a, vq & b) {
    const __m256i p = vq_load(w), q = vq_load(w + 32);
    a = _mm256_permute2x128_si256(p, q, 0x20);
    b = _mm256_permute2x128_si256(p, q, 0x31);
}
inline vq vq_add_16_where(vq a, vq bits, vq bit) {
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit);
    return _mm256_add_epi8(a, _mm256_and_si256(set, _mm256_set1_epi8(16)));
}
inline void vq_add_fifth_bits(const uint8_t * w, int stride, vq & a, vq & b) {
    int32_t h0, h1;
    memcpy(&h0, w, sizeof(h0));
    memcpy(&h1, w + stride, sizeof(h1));
    const __m256i bits = _mm256_setr_m128i(_mm_set1_epi32(h0), _mm_set1_epi32(h1));
    const __m256i bit  = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i one  = _mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101);
    a                  = vq_add_16_where(a, _mm256_shuffle_epi8(bits, one), bit);
    b                  = vq_add_16_where(b, _mm256_shuffle_epi8(bits, _mm256_add_epi8(one, _mm256_set1_epi8(2))), bit);
}
inline void vq_load_six_bits(const uint8_t * w, int half, int i, vq & a, vq & b) {
    const __m256i low  = vq_load(w + 64 * half + i);
    const __m256i high = _mm256_srli_epi16(vq_load(w + 128 + 32 * half), i / 16);
    const __m256i pair = _mm256_set1_epi8(48);
    a                  = _mm256_or_si256(vq_low(low), _mm256_and_si256(_mm256_slli_epi16(high, 4), pair));
    b                  = _mm256_or_si256(vq_high(low), _mm256_and_si256(high, pair));
}

// --- int32 sums ----------------------------------------------------------------------

inline vi vi_zero() { return _mm256_setzero_si256(); }
inline vi vi_load(const int32_t * p) { return vq_load(p); }
inline vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
inline vi vi_shift_left(vi a, int n) { return _mm256_slli_epi32(a, n); }
inline vf vf_from(vi a) { return _mm256_cvtepi32_ps(a); }
#if defined(__AVXVNNI__)
inline vi vi_dot(vq a, vq x) { return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), a, x); }
inline vi vi_dot2(vq a, vq x, vq b, vq y) { return _mm256_dpbusd_avx_epi32(vi_dot(a, x), b, y); }

constexpr int SIGNED_SHIFT = 7; // a + 128 is unsigned
inline vi     vi_dot2_signed(vq a, vq x, vq b, vq y) {
    const __m256i sign = _mm256_set1_epi8(-128);
    return vi_dot2(_mm256_xor_si256(a, sign), x, _mm256_xor_si256(b, sign), y);
}
#else
// a, b <= 63: sums of four products stay below 32768.
inline vi vi_add_pairs(vq pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
inline vi vi_dot(vq a, vq x) { return vi_add_pairs(_mm256_maddubs_epi16(a, x)); }
inline vi vi_dot2(vq a, vq x, vq b, vq y) { return vi_add_pairs(_mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y))); }

constexpr int SIGNED_SHIFT = 0;
// |a| <= 128 and |x| <= 127: pairs stay below 32768.
inline vi vi_dot_signed(vq a, vq x) { return vi_dot(_mm256_abs_epi8(a), _mm256_sign_epi8(x, a)); }
inline vi vi_dot2_signed(vq a, vq x, vq b, vq y) { return _mm256_add_epi32(vi_dot_signed(a, x), vi_dot_signed(b, y)); }
#endif
inline vi vi_transpose_add(vi a, vi b, vi c, vi d) {
    const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
}
inline vi   vi_pairs_in_order(vi a) { return _mm256_permute4x64_epi64(a, 0xd8); }
inline void vi_even_odd(const vi * low, const vi * high, vi & even, vi & odd) {
    // lanes of each half of 128 are pieces 0 4 2 6  1 5 3 7
    const __m256i first = vi_transpose_add(low[0], high[0], low[1], high[1]), second = vi_transpose_add(low[2], high[2], low[3], high[3]);
    even = _mm256_shuffle_epi32(_mm256_permute2x128_si256(first, second, 0x20), 0xd8);
    odd  = _mm256_shuffle_epi32(_mm256_permute2x128_si256(first, second, 0x31), 0xd8);
}

// --- scales of 256-wide blocks ---------------------------------------------------------

// Of blocks p * W .. of two q4_K or q5_K: d * scale and -dmin * minimum, both exact.
template <int BYTES> inline void load_k_scales(const uint8_t * w, int p, vf & d, vf & m) {
    const uint8_t * ws = w + p * BYTES;
    const __m128i   s  = k_scale_bytes(ws);
    d                  = vf_mul(vf_set1(load_half(ws)), vf_from(_mm256_cvtepu8_epi32(s)));
    m                  = vf_mul(vf_set1(-load_half(ws + 2)), vf_from(_mm256_cvtepu8_epi32(_mm_srli_si128(s, 8))));
}
// Of the halves of blocks p * W .. of two q6_K.
inline void load_q6_scales(const uint8_t * w, int p, vf & even, vf & odd) {
    const uint8_t * ws = w + p * 210;
    const __m128i   s  = load_piece(ws + 192);
    const vf        d  = vf_set1(load_half(ws + 208));
    even               = vf_mul(d, vf_from(_mm256_cvtepi16_epi32(_mm_srai_epi16(_mm_slli_epi16(s, 8), 8))));
    odd                = vf_mul(d, vf_from(_mm256_cvtepi16_epi32(_mm_srai_epi16(s, 8))));
}

// --- packed units, see simd-avx512.h ----------------------------------------------------

template <int MASK> inline vq vq_or_bits(vq u, vq bits, int left) {
    const vq moved = left < 0 ? _mm256_srli_epi16(bits, -left) : _mm256_slli_epi16(bits, left);
    return _mm256_or_si256(u, _mm256_and_si256(moved, _mm256_set1_epi8(MASK)));
}
#if defined(__AVXVNNI__)
template <int BITS, int N> inline vi vi_dots(vi sum, const vq * u, const int8_t * x) {
    for (int i = 0; i < N; ++i) {
        sum = _mm256_dpbusd_avx_epi32(sum, u[i], vq_load(x + 64 * i));
    }
    return sum;
}
#else
template <int BITS, int N> inline vi vi_dots(vi sum, const vq * u, const int8_t * x) {
    constexpr int GROUP = BITS == 4 ? 8 : BITS == 5 ? 4 : 2; // an int16 holds so many times 2 * 127 * largest quant
    for (int i = 0; BITS == 8 && i < N; ++i) {
        sum = _mm256_add_epi32(sum, vi_dot_signed(_mm256_xor_si256(u[i], _mm256_set1_epi8(-128)), vq_load(x + 64 * i)));
    }
    for (int i = 0; BITS < 8 && i < N; i += GROUP) {
        vq pairs = _mm256_maddubs_epi16(u[i], vq_load(x + 64 * i));
        for (int k = i + 1; k < i + GROUP && k < N; ++k) {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(u[k], vq_load(x + 64 * k)));
        }
        sum = _mm256_add_epi32(sum, vi_add_pairs(pairs));
    }
    return sum;
}
#endif
inline vf   vf_by_super(const uint8_t * halfs, int p) { return vf_set1(load_half(halfs + 2 * p)); }
inline void load_packed_k(const uint8_t * w, int p, vf & scale, vf & minimum) {
    const auto    bytes = [](const uint8_t * b) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(b))); };
    const __m256i low = bytes(w + 8 * p), high = _mm256_and_si256(_mm256_srli_epi32(bytes(w + 16), 4 * p), _mm256_set1_epi32(15));
    scale   = vf_from(_mm256_and_si256(low, _mm256_set1_epi32(63)));
    minimum = vf_from(_mm256_or_si256(_mm256_srli_epi32(low, 6), _mm256_slli_epi32(high, 2)));
}

} // namespace
} // namespace ggml_sparse
