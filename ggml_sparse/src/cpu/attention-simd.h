#pragma once

// Primitives of attention.cpp on top of simd.h:
//
// vf_max         the larger of each lane; b where a is NaN
// vf_sums        lane i is the sum of the lanes of a[i], 0 <= i < W
// vf_largest     of all lanes; lane i against lane i + W / 2, then i + W / 4, ..., each as vf_max
// vf_power       2^n in each lane that holds n + 1.5 * 2^23, -127 < n < 128
// vf_from_above  a where x >= limit or x is NaN, else +0

#include "simd.h"

namespace ggml_sparse {
namespace {

// ---------------------------------------------------------------------------
#if defined(__AVX512VNNI__)
// ---------------------------------------------------------------------------

inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf vf_power(vf t) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)));
}
inline vf vf_from_above(vf a, vf x, vf limit) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a); }

// Four vectors to one: piece p holds the sums of pieces p.
inline vf vf_add_pieces(const vf * a) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}
inline vf vf_halve(vf a, vf b) { return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); }
#    define SIMD_HAS_LARGEST
inline float vf_largest(vf a) {
    a = vf_max(a, _mm512_shuffle_f32x4(a, a, 0xee));
    a = vf_max(a, _mm512_shuffle_f32x4(a, a, 0x55));
    a = vf_max(a, _mm512_shuffle_ps(a, a, 0xee));
    a = vf_max(a, _mm512_shuffle_ps(a, a, 0x55));
    return _mm512_cvtss_f32(a);
}
inline vf vf_sums(const vf * a) {
    return vf_halve(vf_halve(vf_add_pieces(a), vf_add_pieces(a + 4)), vf_halve(vf_add_pieces(a + 8), vf_add_pieces(a + 12)));
}

// ---------------------------------------------------------------------------
#elif defined(__AVX2__)
// ---------------------------------------------------------------------------

inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf vf_power(vf t) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)));
}
inline vf vf_from_above(vf a, vf x, vf limit) { return _mm256_and_ps(a, _mm256_cmp_ps(x, limit, _CMP_NLT_UQ)); }
inline vf vf_sums(const vf * a) {
    const __m256 low  = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

// ---------------------------------------------------------------------------
#elif defined(__ARM_FEATURE_DOTPROD)
// ---------------------------------------------------------------------------

inline vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline vf vf_power(vf t) {
    const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(t), 23);
    return vreinterpretq_f32_s32(vaddq_s32(n, vdupq_n_s32(0x3f800000)));
}
inline vf vf_from_above(vf a, vf x, vf limit) { return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcltq_f32(x, limit))); }
inline vf vf_sums(const vf * a) { return vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3])); }

// ---------------------------------------------------------------------------
#else
// ---------------------------------------------------------------------------

inline vf vf_max(const vf & a, const vf & b) {
    return vf_make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline vf vf_power(const vf & t) {
    return vf_make([&](int i) {
        uint32_t bits;
        memcpy(&bits, &t.v[i], sizeof(bits));
        bits = (bits << 23) + 0x3f800000;
        float f;
        memcpy(&f, &bits, sizeof(f));
        return f;
    });
}
inline vf vf_from_above(const vf & a, const vf & x, const vf & limit) {
    return vf_make([&](int i) { return x.v[i] < limit.v[i] ? 0.0f : a.v[i]; });
}
inline vf vf_sums(const vf * a) {
    return vf_make([=](int i) { return vf_sum(a[i]); });
}

#endif

#if !defined(SIMD_HAS_LARGEST)
inline float vf_largest(const vf & a) {
    float t[W];
    vf_store(t, a);
    for (int n = W / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; ++i) {
            t[i] = t[i] > t[i + n] ? t[i] : t[i + n];
        }
    }
    return t[0];
}
#endif

// e^x for x <= 0, relative error below 1.5e-7; +0 below -87, where it nears the smallest normal number; 1 at 0.
// x = n ln 2 + r with |r| <= ln 2 / 2; the Taylor series of e^r to r^7 is off by 6e-9.
inline vf vf_exp(const vf & x) {
    const vf magic = vf_set1(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer
    const vf t     = vf_fma(x, vf_set1(1.44269504f), magic);
    const vf n     = vf_add(t, vf_set1(-12582912.0f));
    const vf r     = vf_fma(n, vf_set1(2.12194440e-4f), vf_fma(n, vf_set1(-0.693359375f), x));
    vf       e     = vf_set1(1.0f / 5040);

    const float taylor[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float c : taylor) {
        e = vf_fma(e, r, vf_set1(c));
    }
    return vf_from_above(vf_mul(e, vf_power(t)), x, vf_set1(-87));
}

} // namespace
} // namespace ggml_sparse
