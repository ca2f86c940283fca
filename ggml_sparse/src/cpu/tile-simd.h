#pragma once

// Primitives of gemm.cpp on top of simd.h: vectors whose lane r belongs to row r of W rows.
// A vq holds W dwords here; "dword" below is four neighbouring bytes of one row.

#include "simd.h"

namespace ggml_sparse {
namespace {

// ---------------------------------------------------------------------------
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
// ---------------------------------------------------------------------------

constexpr bool SIGNED_PLANES = false; // products want one unsigned side

inline vq   vq_words(const void * p) { return _mm512_loadu_si512(p); }
inline void vq_store_words(void * p, vq a) { _mm512_storeu_si512(p, a); }
inline vq   vq_set1(int32_t a) { return _mm512_set1_epi32(a); }
inline vq   vq_and(vq a, vq b) { return _mm512_and_si512(a, b); }
inline vq   vq_or(vq a, vq b) { return _mm512_or_si512(a, b); }
inline vq   vq_xor(vq a, vq b) { return _mm512_xor_si512(a, b); }
inline vq   vq_sub_bytes(vq a, vq b) { return _mm512_sub_epi8(a, b); }
inline vq   vq_shr(vq a, int k) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(k)); } // of dwords
inline vq   vq_shl(vq a, int k) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(k)); }
inline vf   vf_from_words(vq a) { return _mm512_cvtepi32_ps(a); }
inline vf   vf_from_halves(vq a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); } // low 16 bits as F16

inline vq gather_words(const uint8_t * const * rows, int64_t at) {
    const __m512i offset = _mm512_set1_epi64(at);
    const __m512i lo     = _mm512_add_epi64(_mm512_loadu_si512(rows), offset);
    const __m512i hi     = _mm512_add_epi64(_mm512_loadu_si512(rows + 8), offset);
    const __m256i zero   = _mm256_setzero_si256();
    const __m256i a      = _mm512_mask_i64gather_epi32(zero, 0xff, lo, nullptr, 1);
    const __m256i b      = _mm512_mask_i64gather_epi32(zero, 0xff, hi, nullptr, 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

inline __m512i four_rows(const uint8_t * const * rows, int64_t at) {
    const auto load = [=](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[r] + at)); };
    __m512i    z    = _mm512_castsi128_si512(load(0));
    z               = _mm512_mask_broadcast_i32x4(z, 0x00f0, load(4));
    z               = _mm512_mask_broadcast_i32x4(z, 0x0f00, load(8));
    return _mm512_mask_broadcast_i32x4(z, 0xf000, load(12));
}

// w[i] = dword i of the 16 bytes at `at` of each row.
inline void load_dwords(const uint8_t * const * rows, int64_t at, vq * w) {
    const __m512i a = four_rows(rows, at), b = four_rows(rows + 1, at), c = four_rows(rows + 2, at), d = four_rows(rows + 3, at);
    const __m512i ab0 = _mm512_unpacklo_epi32(a, b), ab1 = _mm512_unpackhi_epi32(a, b);
    const __m512i cd0 = _mm512_unpacklo_epi32(c, d), cd1 = _mm512_unpackhi_epi32(c, d);
    w[0] = _mm512_unpacklo_epi64(ab0, cd0);
    w[1] = _mm512_unpackhi_epi64(ab0, cd0);
    w[2] = _mm512_unpacklo_epi64(ab1, cd1);
    w[3] = _mm512_unpackhi_epi64(ab1, cd1);
}

// acc + the four products of each lane with the four int8 at x.
inline vq vq_dot4(vq acc, vq w, const int8_t * x) {
    int32_t x4;
    memcpy(&x4, x, sizeof(x4));
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x4));
}

// ---------------------------------------------------------------------------
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// ---------------------------------------------------------------------------

constexpr bool SIGNED_PLANES = true;

inline vq   vq_words(const void * p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void vq_store_words(void * p, vq a) { _mm256_storeu_si256(static_cast<__m256i *>(p), a); }
inline vq   vq_set1(int32_t a) { return _mm256_set1_epi32(a); }
inline vq   vq_and(vq a, vq b) { return _mm256_and_si256(a, b); }
inline vq   vq_or(vq a, vq b) { return _mm256_or_si256(a, b); }
inline vq   vq_xor(vq a, vq b) { return _mm256_xor_si256(a, b); }
inline vq   vq_sub_bytes(vq a, vq b) { return _mm256_sub_epi8(a, b); }
inline vq   vq_shr(vq a, int k) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(k)); }
inline vq   vq_shl(vq a, int k) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(k)); }
inline vf   vf_from_words(vq a) { return _mm256_cvtepi32_ps(a); }
inline vf   vf_from_halves(vq a) {
    const __m256i low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

inline vq gather_words(const uint8_t * const * rows, int64_t at) {
    int32_t t[W];
    for (int r = 0; r < W; ++r) {
        memcpy(&t[r], rows[r] + at, sizeof(t[r]));
    }
    return vq_words(t);
}

inline __m256i two_rows(const uint8_t * const * rows, int64_t at) {
    const auto load = [=](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(rows[r] + at)); };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(4), 1);
}

inline void load_dwords(const uint8_t * const * rows, int64_t at, vq * w) {
    const __m256i a = two_rows(rows, at), b = two_rows(rows + 1, at), c = two_rows(rows + 2, at), d = two_rows(rows + 3, at);
    const __m256i ab0 = _mm256_unpacklo_epi32(a, b), ab1 = _mm256_unpackhi_epi32(a, b);
    const __m256i cd0 = _mm256_unpacklo_epi32(c, d), cd1 = _mm256_unpackhi_epi32(c, d);
    w[0] = _mm256_unpacklo_epi64(ab0, cd0);
    w[1] = _mm256_unpackhi_epi64(ab0, cd0);
    w[2] = _mm256_unpacklo_epi64(ab1, cd1);
    w[3] = _mm256_unpackhi_epi64(ab1, cd1);
}

inline vq vq_dot4(vq acc, vq w, const int8_t * x) { // |w| <= 128, |x| <= 127: pairs stay below 32768
    int32_t x4;
    memcpy(&x4, x, sizeof(x4));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(_mm256_set1_epi32(x4), w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// ---------------------------------------------------------------------------
#else // portable
// ---------------------------------------------------------------------------

constexpr bool SIGNED_PLANES = true;

inline vq vq_words(const void * p) {
    vq r;
    memcpy(r.v, p, sizeof(r.v));
    return r;
}
inline void vq_store_words(void * p, const vq & a) { memcpy(p, a.v, sizeof(a.v)); }

template <typename F> inline vq vq_map(F f) { // f(lane) -> dword
    uint32_t t[W];
    for (int i = 0; i < W; ++i) {
        t[i] = f(i);
    }
    return vq_words(t);
}
inline uint32_t word(const vq & a, int i) {
    uint32_t u;
    memcpy(&u, a.v + 4 * i, sizeof(u));
    return u;
}

inline vq vq_set1(int32_t a) {
    return vq_map([=](int) { return static_cast<uint32_t>(a); });
}
inline vq vq_and(const vq & a, const vq & b) {
    return vq_map([&](int i) { return word(a, i) & word(b, i); });
}
inline vq vq_or(const vq & a, const vq & b) {
    return vq_map([&](int i) { return word(a, i) | word(b, i); });
}
inline vq vq_xor(const vq & a, const vq & b) {
    return vq_map([&](int i) { return word(a, i) ^ word(b, i); });
}
inline vq vq_sub_bytes(const vq & a, const vq & b) {
    return vq_make([&](int i) { return a.v[i] - b.v[i]; });
}
inline vq vq_shr(const vq & a, int k) {
    return vq_map([&](int i) { return word(a, i) >> k; });
}
inline vq vq_shl(const vq & a, int k) {
    return vq_map([&](int i) { return word(a, i) << k; });
}
inline vf vf_from_words(const vq & a) {
    return vf_make([&](int i) { return static_cast<float>(static_cast<int32_t>(word(a, i))); });
}
inline vf vf_from_halves(const vq & a) {
    return vf_make([&](int i) { return ggml_fp16_to_fp32(static_cast<ggml_fp16_t>(word(a, i))); });
}

inline vq gather_words(const uint8_t * const * rows, int64_t at) {
    return vq_map([=](int r) {
        uint32_t u;
        memcpy(&u, rows[r] + at, sizeof(u));
        return u;
    });
}
inline void load_dwords(const uint8_t * const * rows, int64_t at, vq * w) {
    for (int i = 0; i < 4; ++i) {
        w[i] = gather_words(rows, at + 4 * i);
    }
}
inline vq vq_dot4(const vq & acc, const vq & w, const int8_t * x) {
    return vq_map([&](int i) {
        int s = static_cast<int>(word(acc, i));
        for (int k = 0; k < 4; ++k) {
            s += w.v[4 * i + k] * x[k];
        }
        return static_cast<uint32_t>(s);
    });
}

#endif

// The same byte in every byte.
inline vq vq_bytes(int a) { return vq_set1(static_cast<int32_t>(static_cast<uint32_t>(a) * 0x01010101u)); }

} // namespace
} // namespace ggml_sparse
