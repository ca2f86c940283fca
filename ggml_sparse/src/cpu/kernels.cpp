// Dot and axpy per weight type, over the primitives of simd.h. Compiled once per instruction
// set with KERNEL_ISA = GENERIC, AVX2 or AVX512, KERNEL_TABLE = its table's name and BATCH_TABLE =
// gemm.cpp's, without contraction of a * b + c. No C++ library inlines here: the linker could keep their copy
// that was built for a CPU we do not run on.

#include "kernels.h"

#include "gemm.h"
#include "simd.h"

namespace ggml_sparse {
namespace {

// --- float rows: x [n] F32 --------------------------------------------------

struct f32_row {
    using elem = float;
    static vf load(const elem * p) { return vf_load(p); }
};
struct f16_row {
    using elem = uint16_t;
    static vf load(const elem * p) { return vf_load_f16(p); }
};
struct bf16_row {
    using elem = uint16_t;
    static vf load(const elem * p) { return vf_load_bf16(p); }
};

// The last n < W elements of a row.
template <typename row> vf load_tail(const typename row::elem * p, int n) {
    typename row::elem t[W] = {};
    memcpy(t, p, static_cast<size_t>(n) * sizeof(t[0]));
    return row::load(t);
}

template <typename row> float dot_float(int64_t n, const void * w_row, const void * x_row) {
    const auto *  w      = static_cast<const typename row::elem *>(w_row);
    const float * x      = static_cast<const float *>(x_row);
    vf            acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    int64_t       i      = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        for (int k = 0; k < 4; ++k) {
            acc[k] = vf_fma(row::load(w + i + k * W), vf_load(x + i + k * W), acc[k]);
        }
    }
    for (; i + W <= n; i += W) {
        acc[0] = vf_fma(row::load(w + i), vf_load(x + i), acc[0]);
    }
    if (i < n) {
        const int left = static_cast<int>(n - i);
        acc[1]         = vf_fma(load_tail<row>(w + i, left), vf_load_n(x + i, left), acc[1]);
    }
    return vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
}

template <typename row> void axpy_float(int64_t n, float h, const void * w_row, float * y) {
    const auto * w = static_cast<const typename row::elem *>(w_row);
    const vf     a = vf_set1(h);
    int64_t      i = 0;
    for (; i + W <= n; i += W) {
        vf_store(y + i, vf_fma(a, row::load(w + i), vf_load(y + i)));
    }
    if (i < n) {
        const int left = static_cast<int>(n - i);
        vf_store_n(y + i, vf_fma(a, load_tail<row>(w + i, left), vf_load_n(y + i, left)), left);
    }
}

// --- 32-wide blocks: x planar (types.h) -------------------------------------------
//
// Value of a quant q: d * (q - OFFSET), or d * q + m where HAS_MIN. ggml's blocks are {f16 d},
// {f16 m} where HAS_MIN, {u32 fifth bits} in q5, then bytes or nibbles.

struct q8_0_row {
    static constexpr int  BYTES   = 34;
    static constexpr int  OFFSET  = 0;
    static constexpr bool HAS_MIN = false;
    static vq             quants(const uint8_t * w) { return vq_load_bytes(w + 2, BYTES); }
    static void           floats(const uint8_t * w, float d, vf * v) {
        for (int k = 0; k < 32 / W; ++k) {
            v[k] = vf_mul(vf_set1(d), vf_load_i8(reinterpret_cast<const int8_t *>(w + 2) + k * W));
        }
    }
};
struct q4_0_row {
    static constexpr int  BYTES   = 18;
    static constexpr int  OFFSET  = 8;
    static constexpr bool HAS_MIN = false;
    static vq             quants(const uint8_t * w) { return vq_load_nibbles(w + 2, BYTES); }
    static void           floats(const uint8_t * w, float d, vf * v) { vf_load_nibbles(w + 2, d, v); }
};
struct q4_1_row {
    static constexpr int  BYTES   = 20;
    static constexpr int  OFFSET  = 0;
    static constexpr bool HAS_MIN = true;
    static vq             quants(const uint8_t * w) { return vq_load_nibbles(w + 4, BYTES); }
};
struct q5_0_row {
    static constexpr int  BYTES   = 22;
    static constexpr int  OFFSET  = 16;
    static constexpr bool HAS_MIN = false;
    static vq             quants(const uint8_t * w) { return vq_add_high_bits(vq_load_nibbles(w + 6, BYTES), w + 2, BYTES); }
};
struct q5_1_row {
    static constexpr int  BYTES   = 24;
    static constexpr int  OFFSET  = 0;
    static constexpr bool HAS_MIN = true;
    static vq             quants(const uint8_t * w) { return vq_add_high_bits(vq_load_nibbles(w + 8, BYTES), w + 4, BYTES); }
};

// Sums of four products of a vector's blocks, without the scales.
template <typename row> vf dot_vector(const uint8_t * w, const int8_t * q) {
    const vq a = row::quants(w), b = vq_load(q);
    return row::OFFSET ? vq_dot_from(a, row::OFFSET, b) : vq_dot(a, b);
}

// acc[0] + acc[1] += products of n_block <= 16 blocks. s[n_block] = 0, so that a vector's
// surplus block counts nothing.
template <typename row> void dot_blocks(int n_block, const uint8_t * w, const int8_t * q, const float * s, vf * acc) {
    int b = 0;
    for (; b + 2 * BLOCKS <= n_block; b += 2 * BLOCKS) { // two sums: one would wait for its own FMA
        const int c = b + BLOCKS;
        acc[0]      = vf_fma(vf_spread(s + b), dot_vector<row>(w + b * row::BYTES, q + b * 32), acc[0]);
        acc[1]      = vf_fma(vf_spread(s + c), dot_vector<row>(w + c * row::BYTES, q + c * 32), acc[1]);
    }
    for (; b + BLOCKS <= n_block; b += BLOCKS) {
        acc[0] = vf_fma(vf_spread(s + b), dot_vector<row>(w + b * row::BYTES, q + b * 32), acc[0]);
    }
    if (b < n_block) { // x may be read past its end (x_prepared_size), w may not
        uint8_t last[BLOCKS * row::BYTES] = {};
        memcpy(last, w + b * row::BYTES, row::BYTES);
        acc[1] = vf_fma(vf_spread(s + b), dot_vector<row>(last, q + b * 32), acc[1]);
    }
}

// s[b] = f16 at w + b * stride, times x[b]; 0 for n_block <= b < 16.
inline void multiply_scales(const uint8_t * w, int stride, int n_block, const float * x, float * s) {
    load_scales(w, stride, n_block, s);
    for (int b = 0; b < n_block; ++b) {
        s[b] *= x[b];
    }
}

template <typename row> float dot_quant(int64_t n, const void * w_row, const void * x_row) {
    const uint8_t * w      = static_cast<const uint8_t *>(w_row);
    const int8_t *  q      = static_cast<const int8_t *>(x_row);
    const float *   d      = reinterpret_cast<const float *>(q + n);
    const float *   sum    = d + n / 32;
    vf              acc[2] = {vf_set1(0), vf_set1(0)};
    for (int64_t i = 0; i < n; i += 512, w += 16 * row::BYTES) {
        const int n_block = n - i < 512 ? static_cast<int>(n - i) / 32 : 16;
        float     s[16 + 1];
        s[16] = 0;
        if (row::HAS_MIN) {
            multiply_scales(w + 2, row::BYTES, n_block, sum + i / 32, s);
            for (int k = 0; k < 16; k += W) {
                acc[0] = vf_add(acc[0], vf_load(s + k));
            }
        }
        multiply_scales(w, row::BYTES, n_block, d + i / 32, s);
        dot_blocks<row>(n_block, w, q + i, s, acc);
    }
    return vf_sum(vf_add(acc[0], acc[1]));
}

template <typename row> void axpy_quant(int64_t n, float h, const void * w_row, float * y) {
    const uint8_t * w = static_cast<const uint8_t *>(w_row);
    const vf        a = vf_set1(h);
    for (int64_t i = 0; i < n; i += 512) {
        const int n_block = n - i < 512 ? static_cast<int>(n - i) / 32 : 16;
        float     d[16];
        load_scales(w + i / 32 * row::BYTES, row::BYTES, n_block, d);
        for (int b = 0; b < n_block; ++b) {
            vf      v[32 / W];
            float * yb = y + i + b * 32;
            row::floats(w + (i / 32 + b) * row::BYTES, d[b], v);
            for (int k = 0; k < 32 / W; ++k) {
                vf_store(yb + k * W, vf_fma(a, v[k], vf_load(yb + k * W)));
            }
        }
    }
}

// --- the table ---------------------------------------------------------------

#define DOT_F32(name) dot_float<name##_row>
#define DOT_PLANAR(name) dot_quant<name##_row>
#define DOT_GGML(name) nullptr

#define AXPY_OWN_F32(name) axpy_float<name##_row>
#define AXPY_OWN_PLANAR(name) axpy_quant<name##_row>
#define AXPY_HOST_PLANAR(name) nullptr
#define AXPY_HOST_GGML(name) nullptr

} // namespace

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

const sparse_kernels KERNEL_TABLE = {
    JOIN(GGML_SPARSE_ISA_, KERNEL_ISA),
    {
#define SPARSE_TYPE(NAME, name, FORM, AXPY) {DOT_##FORM(name), AXPY_##AXPY##_##FORM(name)},
#include "../quants.def"
#undef SPARSE_TYPE
    },
    &BATCH_TABLE,
};

} // namespace ggml_sparse
