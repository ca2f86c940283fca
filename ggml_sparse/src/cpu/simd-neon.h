#pragma once

// simd.h for NEON with dot products (Armv8.2).

#include <arm_neon.h>

namespace ggml_sparse {
namespace {

constexpr int W = 4;
using vf        = float32x4_t;
using vi        = int32x4_t;
using vq        = uint8x16_t;

inline vf vf_set1(float a) { return vdupq_n_f32(a); }
inline vf vf_load(const float * p) { return vld1q_f32(p); }
inline vf vf_load_n(const float * p, int n) {
    float t[W] = {};
    memcpy(t, p, static_cast<size_t>(n) * sizeof(float));
    return vf_load(t);
}
inline void vf_store(float * p, vf a) { vst1q_f32(p, a); }
inline void vf_store_n(float * p, vf a, int n) {
    float t[W];
    vf_store(t, a);
    memcpy(p, t, static_cast<size_t>(n) * sizeof(float));
}
inline vf    vf_add(vf a, vf b) { return vaddq_f32(a, b); }
inline vf    vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
inline vf    vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
inline float vf_sum(vf a) {
    const float32x2_t s = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}

inline vf vf_load_f16(const uint16_t * p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline vf vf_load_bf16(const uint16_t * p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline vf vf_load_i8(const int8_t * p) {
    const float t[W] = {static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])};
    return vf_load(t);
}

// --- halfs `STRIDE` bytes apart ---------------------------------------------------

inline uint16_t half_bits(const uint8_t * w) { return static_cast<uint16_t>(w[0] | w[1] << 8); }
inline float    load_half(const uint8_t * w) { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half_bits(w)))), 0); }
template <int STRIDE> inline vf vf_load_halfs(const uint8_t * w) {
    const uint16_t h[W] = {half_bits(w), half_bits(w + STRIDE), half_bits(w + 2 * STRIDE), half_bits(w + 3 * STRIDE)};
    return vf_load_f16(h);
}

// --- quants --------------------------------------------------------------------------

inline vq   vq_load(const void * p) { return vld1q_u8(static_cast<const uint8_t *>(p)); }
inline void vq_store(int8_t * p, vq a) { vst1q_s8(p, vreinterpretq_s8_u8(a)); }
inline vq   vq_low(vq a) { return vandq_u8(a, vdupq_n_u8(15)); }
inline vq   vq_high(vq a) { return vshrq_n_u8(a, 4); }
inline vq   vq_gather(const uint8_t * w, int) { return vq_load(w); } // one piece is a vector
inline vq   vq_repeat(const uint8_t * w) { return vq_load(w); }
inline void vq_split(const uint8_t * w, vq & a, vq & b) {
    a = vq_load(w);
    b = vq_load(w + 16);
}
inline vq   vq_add_16_where(vq a, vq bits, vq bit) { return vaddq_u8(a, vandq_u8(vtstq_u8(bits, bit), vdupq_n_u8(16))); }
inline void vq_add_fifth_bits(const uint8_t * w, int, vq & a, vq & b) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    a                    = vq_add_16_where(a, vcombine_u8(vdup_n_u8(w[0]), vdup_n_u8(w[1])), bit);
    b                    = vq_add_16_where(b, vcombine_u8(vdup_n_u8(w[2]), vdup_n_u8(w[3])), bit);
}
inline void vq_load_six_bits(const uint8_t * w, int half, int i, vq & a, vq & b) {
    const vq low  = vq_load(w + 64 * half + i);
    const vq high = vshlq_u8(vq_load(w + 128 + 32 * half + i % 32), vdupq_n_s8(static_cast<int8_t>(-(i / 32 * 2))));
    const vq pair = vdupq_n_u8(48);
    a             = vorrq_u8(vq_low(low), vandq_u8(vshlq_n_u8(high, 4), pair));
    b             = vorrq_u8(vq_high(low), vandq_u8(high, pair));
}

// --- int32 sums ----------------------------------------------------------------------

inline vi vi_zero() { return vdupq_n_s32(0); }
inline vi vi_load(const int32_t * p) { return vld1q_s32(p); }
inline vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
inline vi vi_shift_left(vi a, int n) { return vshlq_s32(a, vdupq_n_s32(n)); }
inline vf vf_from(vi a) { return vcvtq_f32_s32(a); }
inline vi vi_dot_from(vi sum, vq a, vq x) { return vdotq_s32(sum, vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(x)); }
inline vi vi_dot(vq a, vq x) { return vi_dot_from(vdupq_n_s32(0), a, x); }
inline vi vi_dot2(vq a, vq x, vq b, vq y) { return vi_dot_from(vi_dot(a, x), b, y); }

constexpr int SIGNED_SHIFT = 0;
inline vi     vi_dot2_signed(vq a, vq x, vq b, vq y) { return vi_dot2(a, x, b, y); }
inline vi     vi_transpose_add(vi a, vi b, vi c, vi d) { return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)); }
inline vi     vi_pairs_in_order(vi a) { return a; }
inline void   vi_even_odd(const vi * low, const vi * high, vi & even, vi & odd) {
    even = vi_transpose_add(low[0], low[2], high[0], high[2]);
    odd  = vi_transpose_add(low[1], low[3], high[1], high[3]);
}

// --- scales of 256-wide blocks ---------------------------------------------------------

// Of blocks p * W .. of two q4_K or q5_K: d * scale and -dmin * minimum, both exact.
template <int BYTES> inline void load_k_scales(const uint8_t * w, int p, vf & d, vf & m) {
    const uint8_t * ws = w + p / 2 * BYTES;
    float           scale[W], minimum[W];
    for (int i = 0; i < W; ++i) {
        scale[i]   = static_cast<float>(k_scale(ws + 4, p % 2 * W + i));
        minimum[i] = static_cast<float>(k_minimum(ws + 4, p % 2 * W + i));
    }
    d = vf_mul(vf_set1(load_half(ws)), vf_load(scale));
    m = vf_mul(vf_set1(-load_half(ws + 2)), vf_load(minimum));
}
// Of the halves of blocks p * W .. of two q6_K.
inline void load_q6_scales(const uint8_t * w, int p, vf & even, vf & odd) {
    const uint8_t * ws = w + p / 2 * 210;
    const int8x8_t  s  = vld1_s8(reinterpret_cast<const int8_t *>(ws) + 192 + p % 2 * 8);
    const int16x8_t t  = vmovl_s8(s);
    const vf        d  = vf_set1(load_half(ws + 208));
    const int32x4_t lo = vmovl_s16(vget_low_s16(t)), hi = vmovl_s16(vget_high_s16(t));
    even = vf_mul(d, vf_from(vuzp1q_s32(lo, hi)));
    odd  = vf_mul(d, vf_from(vuzp2q_s32(lo, hi)));
}

// --- packed units, see simd-avx512.h ----------------------------------------------------

template <int MASK> inline vq vq_or_bits(vq u, vq bits, int left) {
    return vorrq_u8(u, vandq_u8(vshlq_u8(bits, vdupq_n_s8(static_cast<int8_t>(left))), vdupq_n_u8(MASK)));
}
template <int BITS, int N> inline vi vi_dots(vi sum, const vq * u, const int8_t * x) {
    for (int i = 0; i < N; ++i) {
        sum = vi_dot_from(sum, BITS == 8 ? veorq_u8(u[i], vdupq_n_u8(128)) : u[i], vq_load(x + 64 * i));
    }
    return sum;
}
inline vf   vf_by_super(const uint8_t * halfs, int p) { return vf_set1(load_half(halfs + 2 * (p / 2))); }
inline void load_packed_k(const uint8_t * w, int p, vf & scale, vf & minimum) {
    float s[W], m[W];
    for (int i = 0; i < W; ++i) {
        s[i] = static_cast<float>(packed_k_scale(w, p * W + i));
        m[i] = static_cast<float>(packed_k_minimum(w, p * W + i));
    }
    scale   = vf_load(s);
    minimum = vf_load(m);
}

} // namespace
} // namespace ggml_sparse
