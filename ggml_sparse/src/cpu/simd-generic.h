#pragma once

// simd.h as loops that any compiler can vectorise.

namespace ggml_sparse {
namespace {

constexpr int W = 8;
struct vf {
    float v[W];
};
struct vi {
    int32_t v[W];
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
// Where libm's fmaf would be a call per element: the product is exact in double, so this rounds twice at most.
inline vf vf_fma(const vf & a, const vf & b, const vf & c) {
#if defined(__FP_FAST_FMAF)
    return vf_make([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
#else
    return vf_make(
        [&](int i) { return static_cast<float>(static_cast<double>(a.v[i]) * static_cast<double>(b.v[i]) + static_cast<double>(c.v[i])); });
#endif
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

inline float load_half(const uint8_t * w) {
    ggml_fp16_t h;
    memcpy(&h, w, sizeof(h));
    return ggml_fp16_to_fp32(h);
}
// Halfs `STRIDE` bytes apart.
template <int STRIDE> inline vf vf_load_halfs(const uint8_t * w) {
    return vf_make([=](int i) { return load_half(w + i * STRIDE); });
}

// --- quants --------------------------------------------------------------------------

template <typename F> inline vq vq_make(F f) {
    vq r;
    for (int i = 0; i < 4 * W; ++i) {
        r.v[i] = static_cast<int8_t>(f(i));
    }
    return r;
}
inline vq vq_load(const void * p) {
    vq r;
    memcpy(r.v, p, sizeof(r.v));
    return r;
}
inline void vq_store(int8_t * p, const vq & a) { memcpy(p, a.v, sizeof(a.v)); }
inline vq   vq_low(const vq & a) {
    return vq_make([&](int i) { return a.v[i] & 15; });
}
inline vq vq_high(const vq & a) {
    return vq_make([&](int i) { return static_cast<uint8_t>(a.v[i]) >> 4; });
}
inline vq vq_gather(const uint8_t * w, int stride) {
    return vq_make([=](int i) { return w[i / 16 * stride + i % 16]; });
}
inline vq   vq_repeat(const uint8_t * w) { return vq_gather(w, 0); }
inline void vq_split(const uint8_t * w, vq & a, vq & b) {
    a = vq_gather(w, 32);
    b = vq_gather(w + 16, 32);
}
inline vq vq_add_16_where(const vq & a, const vq & bits, const vq & bit) {
    return vq_make([&](int i) { return a.v[i] + (bits.v[i] & bit.v[i] ? 16 : 0); });
}
inline void vq_add_fifth_bits(const uint8_t * w, int stride, vq & a, vq & b) {
    auto bit = [=](int i) { return w[i / 16 * stride + i % 16 / 8] >> i % 8 & 1; };
    auto far = [=](int i) { return w[i / 16 * stride + 2 + i % 16 / 8] >> i % 8 & 1; };
    a        = vq_make([&](int i) { return a.v[i] + 16 * bit(i); });
    b        = vq_make([&](int i) { return b.v[i] + 16 * far(i); });
}
inline void vq_load_six_bits(const uint8_t * w, int half, int i, vq & a, vq & b) {
    const uint8_t *low = w + 64 * half + i, *high = w + 128 + 32 * half;
    a = vq_make([=](int k) { return (low[k] & 15) | (high[(i + k) % 32] >> (i + k) / 32 * 2 & 3) << 4; });
    b = vq_make([=](int k) { return low[k] >> 4 | (high[(i + k) % 32] >> (4 + (i + k) / 32 * 2) & 3) << 4; });
}

// --- int32 sums ----------------------------------------------------------------------

template <typename F> inline vi vi_make(F f) {
    vi r;
    for (int i = 0; i < W; ++i) {
        r.v[i] = f(i);
    }
    return r;
}
inline vi vi_zero() { return vi{}; }
inline vi vi_load(const int32_t * p) {
    return vi_make([=](int i) { return p[i]; });
}
inline vi vi_sub(const vi & a, const vi & b) {
    return vi_make([&](int i) { return a.v[i] - b.v[i]; });
}
inline vi vi_shift_left(const vi & a, int n) {
    return vi_make([&](int i) { return a.v[i] * (1 << n); });
}
inline vf vf_from(const vi & a) {
    return vf_make([&](int i) { return static_cast<float>(a.v[i]); });
}
inline vi vi_dot(const vq & a, const vq & x) {
    return vi_make([&](int i) {
        const int8_t *p = a.v + 4 * i, *q = x.v + 4 * i;
        return p[0] * q[0] + p[1] * q[1] + p[2] * q[2] + p[3] * q[3];
    });
}
inline vi vi_dot2(const vq & a, const vq & x, const vq & b, const vq & y) {
    const vi p = vi_dot(a, x), q = vi_dot(b, y);
    return vi_make([&](int i) { return p.v[i] + q.v[i]; });
}

constexpr int SIGNED_SHIFT = 0;
inline vi     vi_dot2_signed(const vq & a, const vq & x, const vq & b, const vq & y) { return vi_dot2(a, x, b, y); }
inline vi     vi_transpose_add(const vi & a, const vi & b, const vi & c, const vi & d) {
    const vi * const v[4] = {&a, &b, &c, &d};
    return vi_make([&](int i) {
        const int32_t * p = v[i % 4]->v + i / 4 * 4;
        return p[0] + p[1] + p[2] + p[3];
    });
}
inline vi vi_pairs_in_order(const vi & a) {
    constexpr int at[W] = {0, 1, 4, 5, 2, 3, 6, 7};
    return vi_make([&](int i) { return a.v[at[i]]; });
}
inline void vi_even_odd(const vi * low, const vi * high, vi & even, vi & odd) {
    // lanes of each half are pieces 0 4 2 6  1 5 3 7
    const vi      first = vi_transpose_add(low[0], high[0], low[1], high[1]), second = vi_transpose_add(low[2], high[2], low[3], high[3]);
    constexpr int at[4] = {0, 2, 1, 3};
    auto          pick  = [&](int i) { return i < 4 ? first.v[at[i]] : second.v[at[i - 4]]; };
    auto          last  = [&](int i) { return i < 4 ? first.v[4 + at[i]] : second.v[4 + at[i - 4]]; };
    even                = vi_make(pick);
    odd                 = vi_make(last);
}

// --- scales of 256-wide blocks ---------------------------------------------------------

// Of blocks p * W .. of two q4_K or q5_K: d * scale and -dmin * minimum, both exact.
template <int BYTES> inline void load_k_scales(const uint8_t * w, int p, vf & d, vf & m) {
    const uint8_t * ws = w + p * BYTES;
    const float     dd = load_half(ws), mm = -load_half(ws + 2);
    d = vf_make([=](int i) { return dd * static_cast<float>(k_scale(ws + 4, i)); });
    m = vf_make([=](int i) { return mm * static_cast<float>(k_minimum(ws + 4, i)); });
}
// Of the halves of blocks p * W .. of two q6_K.
inline void load_q6_scales(const uint8_t * w, int p, vf & even, vf & odd) {
    const uint8_t * ws = w + p * 210;
    const float     d  = load_half(ws + 208);
    even               = vf_make([=](int i) { return d * static_cast<float>(static_cast<int8_t>(ws[192 + 2 * i])); });
    odd                = vf_make([=](int i) { return d * static_cast<float>(static_cast<int8_t>(ws[193 + 2 * i])); });
}

// --- packed units, see simd-avx512.h ----------------------------------------------------

template <int MASK> inline vq vq_or_bits(const vq & u, const vq & bits, int left) {
    return vq_make([&](int i) {
        const int b = static_cast<uint8_t>(bits.v[i]);
        return u.v[i] | ((left < 0 ? b >> -left : b << left) & MASK);
    });
}
template <int BITS, int N> inline vi vi_dots(vi sum, const vq * u, const int8_t * x) {
    for (int i = 0; i < N; ++i) {
        const vi dot = vi_dot(BITS == 8 ? vq_make([&](int k) { return u[i].v[k] ^ 0x80; }) : u[i], vq_load(x + 64 * i));
        sum          = vi_make([&](int k) { return sum.v[k] + dot.v[k]; });
    }
    return sum;
}
inline vf   vf_by_super(const uint8_t * halfs, int p) { return vf_set1(load_half(halfs + 2 * p)); }
inline void load_packed_k(const uint8_t * w, int p, vf & scale, vf & minimum) {
    scale   = vf_make([=](int i) { return static_cast<float>(packed_k_scale(w, p * W + i)); });
    minimum = vf_make([=](int i) { return static_cast<float>(packed_k_minimum(w, p * W + i)); });
}

} // namespace
} // namespace ggml_sparse
