#pragma once

// simd.h for AVX2 with FMA and F16C, and AVX-VNNI where the compiler was told so.

#include "simd-x86.h"

namespace ggml_sparse {
namespace {

constexpr int W      = 8;
constexpr int BLOCKS = 1;
using vf             = __m256;
using vq             = __m256i;

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

inline void load_scales(const uint8_t * w, int stride, int n, float * d) {
    for (int i = 0; i < 16; ++i) {
        uint16_t h = 0;
        if (i < n) {
            memcpy(&h, w + i * stride, sizeof(h));
        }
        d[i] = _cvtsh_ss(h);
    }
}
inline vf vf_spread(const float * d) { return _mm256_set1_ps(d[0]); }

inline vq vq_load(const int8_t * p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
inline vq vq_sub(vq a, int c) { return _mm256_sub_epi8(a, _mm256_set1_epi8(static_cast<char>(c))); }
inline vq vq_load_bytes(const uint8_t * w, int) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(w)); }
inline vq vq_load_nibbles(const uint8_t * w, int) {
    const __m128i q    = _mm_loadu_si128(reinterpret_cast<const __m128i *>(w));
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(q), _mm_srli_epi16(q, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}
inline vq vq_add_high_bits(vq a, const uint8_t * w, int) {
    int32_t h;
    memcpy(&h, w, sizeof(h));
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of  = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m256i bytes   = _mm256_shuffle_epi8(_mm256_set1_epi32(h), byte_of);
    const __m256i set     = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
    return _mm256_add_epi8(a, _mm256_and_si256(set, _mm256_set1_epi8(16)));
}
inline vf vq_dot(vq a, vq b) { // |a| <= 128, |b| <= 127: pairs stay below 32768
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline vf vq_dot_from(vq a, int c, vq b) { return vq_dot(vq_sub(a, c), b); }

inline void vf_load_nibbles(const uint8_t * w, float d, vf * v) {
    const vq      q  = vq_sub(vq_load_nibbles(w, 0), 8);
    const vf      s  = vf_set1(d);
    const __m128i lo = _mm256_castsi256_si128(q), hi = _mm256_extracti128_si256(q, 1);
    v[0] = _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(lo)));
    v[1] = _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(lo, 8))));
    v[2] = _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(hi)));
    v[3] = _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(hi, 8))));
}


// --- int32 sums ---------------------------------------------------------------

using vi = __m256i;

inline vi vi_load(const int32_t * p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
inline vf vf_from(vi a) { return _mm256_cvtepi32_ps(a); }
inline vq vq_low(vq a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline vq vq_high(vq a) { return vq_low(_mm256_srli_epi16(a, 4)); }
#if defined(__AVXVNNI__)
inline vi vi_dot2(vi acc, vq a, vq x, vq b, vq y) { return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(acc, a, x), b, y); }
inline vi vi_dot_signed(const int32_t * minus_128, vq a, vq x) {
    return _mm256_dpbusd_avx_epi32(vi_load(minus_128), _mm256_xor_si256(a, _mm256_set1_epi8(-128)), x);
}
#else
// a, b <= 63: sums of four products stay below 32768.
inline vi vi_dot2(vi acc, vq a, vq x, vq b, vq y) {
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// |a| <= 128 and |x| <= 127: pairs stay below 32768.
inline vi vi_dot_signed(const int32_t *, vq a, vq x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(x, a));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#endif

// --- scales of 32 blocks, spread over the dwords of their bytes (inlaid.h) -------------

constexpr bool LANES_COUNT_FROM_FIRST = true;

struct block_scales {
    float d[32 + W]; // read a vector at a time from any block
};

template <int STRIDE> inline block_scales load_block_scales(const uint8_t * w, const float * x) {
    block_scales s;
    for (int b = 0; b < 32; b += W, w += W * STRIDE) {
        auto          half  = [=](int k) { return static_cast<int16_t>(w[k * STRIDE] | w[k * STRIDE + 1] << 8); };
        const __m128i halfs = _mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7));
        _mm256_storeu_ps(s.d + b, vf_mul(_mm256_cvtph_ps(halfs), vf_load(x + b)));
    }
    return s;
}
inline vf vf_spread(const block_scales & s, int first, const int32_t * lane) {
    return _mm256_permutevar8x32_ps(vf_load(s.d + first), vi_load(lane));
}

} // namespace
} // namespace ggml_sparse
