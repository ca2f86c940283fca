#pragma once

// simd.h for AVX-512 with BW, DQ, VL and VNNI.

#include "simd-x86.h"

namespace ggml_sparse {
namespace {

constexpr int W      = 16;
constexpr int BLOCKS = 2;
using vf             = __m512;
using vq             = __m512i;

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

// d[i] of n <= 16 blocks that lie `stride` bytes apart, as floats; 0 behind them.
inline void load_scales(const uint8_t * w, int stride, int n, float * d) {
    const __m512i at =
        _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(stride));
    const __m512i bits = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), first(n), at, w, 1);
    _mm512_storeu_ps(d, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits)));
}
// d[b] in the lanes of block b.
inline vf vf_spread(const float * d) { return _mm512_mask_broadcastss_ps(_mm512_set1_ps(d[0]), 0xff00, _mm_load_ss(d + 1)); }

inline vq vq_load(const int8_t * p) { return _mm512_loadu_si512(p); }
inline vq vq_sub(vq a, int c) { return _mm512_sub_epi8(a, _mm512_set1_epi8(static_cast<char>(c))); }
inline vq vq_load_bytes(const uint8_t * w, int stride) {
    const __m256i b0 = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w));
    const __m256i b1 = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w + stride));
    return _mm512_inserti64x4(_mm512_castsi256_si512(b0), b1, 1);
}
// 16 bytes: low nibbles are elements 0..15, high nibbles 16..31.
inline vq vq_load_nibbles(const uint8_t * w, int stride) {
    const __m128i b0   = _mm_loadu_si128(reinterpret_cast<const __m128i *>(w));
    const __m128i b1   = _mm_loadu_si128(reinterpret_cast<const __m128i *>(w + stride));
    const __m512i both = _mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(b0), b1, 1));
    const __m512i wide = _mm512_shuffle_i64x2(both, both, 0x50); // b0 b0 b1 b1
    return _mm512_and_si512(_mm512_mask_srli_epi16(wide, 0xff00ff00, wide, 4), _mm512_set1_epi8(15));
}
// Plus 16 where bit i of the u32 at w is set.
inline vq vq_add_high_bits(vq a, const uint8_t * w, int stride) {
    uint32_t h0, h1;
    memcpy(&h0, w, sizeof(h0));
    memcpy(&h1, w + stride, sizeof(h1));
    return _mm512_mask_add_epi8(a, h0 | static_cast<uint64_t>(h1) << 32, a, _mm512_set1_epi8(16));
}
// Sums of four neighbours' products, as floats. VNNI wants one unsigned side: |a| * (b with a's sign).
inline vf vq_dot(vq a, vq b) {
    const __m512i sb = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
    return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_abs_epi8(a), sb));
}
// The same of a - c, a unsigned: two unsigned products are cheaper than taking the sign apart.
inline vf vq_dot_from(vq a, int c, vq b) {
    const __m512i ab = _mm512_dpbusd_epi32(_mm512_setzero_si512(), a, b);
    const __m512i cb = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(static_cast<char>(c)), b);
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(ab, cb));
}

// d * (nibble - 8), 32 floats of one block: every value is one of sixteen.
inline void vf_load_nibbles(const uint8_t * w, float d, vf * v) {
    const __m128i q   = _mm_loadu_si128(reinterpret_cast<const __m128i *>(w));
    const __m512  lut = _mm512_mul_ps(_mm512_set1_ps(d), _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
    const __m512i all = _mm512_cvtepu8_epi32(q);
    v[0]              = _mm512_permutexvar_ps(all, lut); // uses the low four bits of each lane
    v[1]              = _mm512_permutexvar_ps(_mm512_srli_epi32(all, 4), lut);
}


// --- int32 sums ---------------------------------------------------------------

using vi = __m512i;

inline vi vi_load(const int32_t * p) { return _mm512_loadu_si512(p); }
inline vf vf_from(vi a) { return _mm512_cvtepi32_ps(a); }
inline vq vq_low(vq a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline vq vq_high(vq a) { return vq_low(_mm512_srli_epi16(a, 4)); }
// acc + sums of four neighbours' products, twice. a, b < 128.
inline vi vi_dot2(vi acc, vq a, vq x, vq b, vq y) { return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(acc, a, x), b, y); }
// Sums of four neighbours' products of signed bytes; minus_128 = -128 * sums of x.
inline vi vi_dot_signed(const int32_t * minus_128, vq a, vq x) {
    return _mm512_dpbusd_epi32(vi_load(minus_128), _mm512_xor_si512(a, _mm512_set1_epi8(-128)), x);
}

// --- scales of 32 blocks, spread over the dwords of their bytes (inlaid.h) -------------

constexpr bool LANES_COUNT_FROM_FIRST = false;

struct block_scales {
    vf half[2];
};

// Of 16 blocks as halfs: the blocks of one 64-byte window at a time.
template <int STRIDE> inline __m256i pick_halfs(const uint8_t * w) {
    constexpr int WINDOW = 62 / STRIDE + 1, STEP = STRIDE / 2;
    const __m512i lane = _mm512_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4,
                                          3, 2, 1, 0);
    __m512i       all  = _mm512_setzero_si512();
    for (int b = 0; b < 16; b += WINDOW) {
        const __mmask32 those = ((1u << WINDOW) - 1) << b;
        const __m512i   word  = _mm512_mullo_epi16(_mm512_sub_epi16(lane, _mm512_set1_epi16(static_cast<int16_t>(b))), _mm512_set1_epi16(STEP));
        all                   = _mm512_mask_permutexvar_epi16(all, those, word, _mm512_loadu_si512(w + b * STRIDE));
    }
    return _mm512_castsi512_si256(all);
}
// half at w + b * STRIDE, times x[b].
template <int STRIDE> inline block_scales load_block_scales(const uint8_t * w, const float * x) {
    block_scales s;
    s.half[0] = _mm512_mul_ps(_mm512_cvtph_ps(pick_halfs<STRIDE>(w)), vf_load(x));
    s.half[1] = _mm512_mul_ps(_mm512_cvtph_ps(pick_halfs<STRIDE>(w + 16 * STRIDE)), vf_load(x + 16));
    return s;
}
inline vf vf_spread(const block_scales & s, int, const int32_t * lane) {
    return _mm512_permutex2var_ps(s.half[0], vi_load(lane), s.half[1]);
}

} // namespace
} // namespace ggml_sparse
