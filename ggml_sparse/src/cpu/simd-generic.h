#pragma once

// simd.h as loops that any compiler can vectorise.

namespace ggml_sparse {
namespace {

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

// --- int32 sums ---------------------------------------------------------------

struct vi {
    int32_t v[W];
};

template <typename F> inline vi vi_make(F f) {
    vi r;
    for (int i = 0; i < W; ++i) {
        r.v[i] = f(i);
    }
    return r;
}
inline int dot_of_four(const int8_t * a, const int8_t * b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]; }

inline vi vi_load(const int32_t * p) {
    vi r;
    memcpy(r.v, p, sizeof(r.v));
    return r;
}
inline vf vf_from(const vi & a) {
    return vf_make([&](int i) { return static_cast<float>(a.v[i]); });
}
inline vq vq_low(vq a) {
    for (int8_t & v : a.v) {
        v &= 15;
    }
    return a;
}
inline vq vq_high(vq a) {
    for (int8_t & v : a.v) {
        v = static_cast<int8_t>(static_cast<uint8_t>(v) >> 4);
    }
    return a;
}
// acc + sums of four neighbours' products, twice. a, b < 128.
inline vi vi_dot2(const vi & acc, const vq & a, const vq & x, const vq & b, const vq & y) {
    return vi_make([&](int i) { return acc.v[i] + dot_of_four(a.v + 4 * i, x.v + 4 * i) + dot_of_four(b.v + 4 * i, y.v + 4 * i); });
}
inline vi vi_dot_signed(const int32_t *, const vq & a, const vq & x) {
    return vi_make([&](int i) { return dot_of_four(a.v + 4 * i, x.v + 4 * i); });
}

// --- scales of 32 blocks, spread over the dwords of their bytes (inlaid.h) -------------

constexpr bool LANES_COUNT_FROM_FIRST = false;

struct block_scales {
    float d[32];
};

template <int STRIDE> inline block_scales load_block_scales(const uint8_t * w, const float * x) {
    block_scales s;
    for (int b = 0; b < 32; ++b) {
        ggml_fp16_t h;
        memcpy(&h, w + b * STRIDE, sizeof(h));
        s.d[b] = ggml_fp16_to_fp32(h) * x[b];
    }
    return s;
}
inline vf vf_spread(const block_scales & s, int, const int32_t * lane) {
    return vf_make([&](int i) { return s.d[lane[i]]; });
}

} // namespace
} // namespace ggml_sparse
