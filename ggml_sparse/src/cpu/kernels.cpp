// Dot and axpy per weight type, over the primitives of simd.h. Compiled once per instruction
// set with KERNEL_ISA = GENERIC, AVX2 or AVX512, KERNEL_TABLE = its table's name and BATCH_TABLE =
// gemm.cpp's, without contraction of a * b + c. No C++ library inlines here: the linker could keep their copy
// that was built for a CPU we do not run on.

#include "kernels.h"

#include "dot-quants.h"
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

template <typename row> float dot_float(int64_t n, const void * w_row, const void * x_row, const void * ahead) {
    const auto *  w      = static_cast<const typename row::elem *>(w_row);
    const float * x      = static_cast<const float *>(x_row);
    vf            acc[4] = {vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0)};
    int64_t       i      = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        prefetch_l2(static_cast<const typename row::elem *>(ahead) + i, 4 * W * sizeof(*w));
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

// --- quantised rows: dots in dot-quants.h -------------------------------------------

inline void block_floats(const q8_0_row *, const uint8_t * w, float d, vf * v) {
    for (int k = 0; k < 32 / W; ++k) {
        v[k] = vf_mul(vf_set1(d), vf_load_i8(reinterpret_cast<const int8_t *>(w + 2) + k * W));
    }
}
inline void block_floats(const q4_0_row *, const uint8_t * w, float d, vf * v) { vf_load_nibbles(w + 2, d, v); }

template <typename row> void axpy_quant(int64_t n, float h, const void * w_row, float * y) {
    const uint8_t * w = static_cast<const uint8_t *>(w_row);
    const vf        a = vf_set1(h);
    for (int64_t i = 0; i < n; i += 32, w += row::BYTES, y += 32) {
        vf v[32 / W];
        block_floats(static_cast<const row *>(nullptr), w, load_half(w), v);
        for (int k = 0; k < 32 / W; ++k) {
            vf_store(y + k * W, vf_fma(a, v[k], vf_load(y + k * W)));
        }
    }
}

// --- the table ---------------------------------------------------------------

#define DOT_F32(name) dot_float<name##_row>
#define DOT_PAIRS(name) dot_quant<block_dot<name##_row>>
#define DOT_SUPER4(name) dot_quant<super4_dot<name##_row>>
#define DOT_SUPER6(name) dot_quant<super6_dot>

#define AXPY_OWN_F32(name) axpy_float<name##_row>
#define AXPY_OWN_PAIRS(name) axpy_quant<name##_row>
#define AXPY_HOST_PAIRS(name) nullptr
#define AXPY_HOST_SUPER4(name) nullptr
#define AXPY_HOST_SUPER6(name) nullptr

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
