#pragma once

// About fifteen primitives over one vector of F32; the only #if ladder on instruction sets.
//
// vf        W floats                    BLOCKS   32-wide int8 blocks in one vector (W * 4 bytes)
// vq        W * 4 int8, whole blocks    bytes, nibbles, high bits: of BLOCKS ggml blocks, `stride` bytes apart
//
// Everything is static: the same names mean different code in every object.

#include "ggml.h"

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#    pragma GCC diagnostic push // gcc 12 warns about its own _mm512_undefined_*
#    pragma GCC diagnostic ignored "-Wuninitialized"
#    pragma GCC diagnostic ignored "-Wpragmas"
#    pragma GCC diagnostic ignored "-Wunknown-warning-option"
#    pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#    include <immintrin.h>
#    pragma GCC diagnostic pop
#endif

namespace ggml_sparse {
namespace {

// ---------------------------------------------------------------------------
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
// ---------------------------------------------------------------------------

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

// ---------------------------------------------------------------------------
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// ---------------------------------------------------------------------------

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

// ---------------------------------------------------------------------------
#else // portable: loops that any compiler can vectorise
// ---------------------------------------------------------------------------

constexpr int W      = 8;
constexpr int BLOCKS = 1;
struct vf {
    float v[W];
};
struct vq {
    int8_t v[W * 4];
};

template <typename F> inline vf vf_make(F f) {
    vf r;
    for (int i = 0; i < W; ++i) {
        r.v[i] = f(i);
    }
    return r;
}
inline vf vf_set1(float a) {
    return vf_make([=](int) { return a; });
}
inline vf vf_load(const float * p) {
    return vf_make([=](int i) { return p[i]; });
}
inline vf vf_load_n(const float * p, int n) {
    return vf_make([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void vf_store(float * p, const vf & a) { memcpy(p, a.v, sizeof(a.v)); }
inline void vf_store_n(float * p, const vf & a, int n) { memcpy(p, a.v, static_cast<size_t>(n) * sizeof(float)); }
inline vf   vf_add(const vf & a, const vf & b) {
    return vf_make([&](int i) { return a.v[i] + b.v[i]; });
}
inline vf vf_mul(const vf & a, const vf & b) {
    return vf_make([&](int i) { return a.v[i] * b.v[i]; });
}
// libm's fmaf is a call per element; the product is exact in double, so this rounds twice at most.
inline vf vf_fma(const vf & a, const vf & b, const vf & c) {
    return vf_make(
        [&](int i) { return static_cast<float>(static_cast<double>(a.v[i]) * static_cast<double>(b.v[i]) + static_cast<double>(c.v[i])); });
}
inline float vf_sum(const vf & a) { return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7])); }

inline vf vf_load_f16(const uint16_t * p) {
    vf r;
    ggml_fp16_to_fp32_row(p, r.v, W);
    return r;
}
inline vf vf_load_bf16(const uint16_t * p) {
    return vf_make([=](int i) {
        const uint32_t bits = static_cast<uint32_t>(p[i]) << 16;
        float          f;
        memcpy(&f, &bits, sizeof(f));
        return f;
    });
}
inline vf vf_load_i8(const int8_t * p) {
    return vf_make([=](int i) { return static_cast<float>(p[i]); });
}

inline void load_scales(const uint8_t * w, int stride, int n, float * d) {
    for (int i = 0; i < 16; ++i) {
        ggml_fp16_t h = 0;
        if (i < n) {
            memcpy(&h, w + i * stride, sizeof(h));
        }
        d[i] = ggml_fp16_to_fp32(h);
    }
}
inline vf vf_spread(const float * d) { return vf_set1(d[0]); }

inline vq vq_load(const int8_t * p) {
    vq r;
    memcpy(r.v, p, sizeof(r.v));
    return r;
}
inline vq vq_sub(vq a, int c) {
    for (int8_t & v : a.v) {
        v = static_cast<int8_t>(v - c);
    }
    return a;
}
inline vq vq_load_bytes(const uint8_t * w, int) {
    vq r;
    memcpy(r.v, w, sizeof(r.v));
    return r;
}
inline vq vq_load_nibbles(const uint8_t * w, int) {
    vq r;
    for (int i = 0; i < 16; ++i) {
        r.v[i]      = static_cast<int8_t>(w[i] & 15);
        r.v[i + 16] = static_cast<int8_t>(w[i] >> 4);
    }
    return r;
}
inline vq vq_add_high_bits(vq a, const uint8_t * w, int) {
    uint32_t h;
    memcpy(&h, w, sizeof(h));
    for (int i = 0; i < 32; ++i) {
        a.v[i] = static_cast<int8_t>(a.v[i] + (h >> i & 1) * 16);
    }
    return a;
}
inline vf vq_dot(const vq & a, const vq & b) {
    return vf_make([&](int i) {
        int s = 0;
        for (int k = 4 * i; k < 4 * i + 4; ++k) {
            s += a.v[k] * b.v[k];
        }
        return static_cast<float>(s);
    });
}
inline vf vq_dot_from(const vq & a, int c, const vq & b) { return vq_dot(vq_sub(a, c), b); }

inline void vf_load_nibbles(const uint8_t * w, float d, vf * v) {
    const vq q = vq_sub(vq_load_nibbles(w, 0), 8);
    for (int k = 0; k < 32 / W; ++k) {
        v[k] = vf_mul(vf_set1(d), vf_load_i8(q.v + k * W));
    }
}

#endif

} // namespace
} // namespace ggml_sparse
