#include "types.h"

#include "cpu/inlaid.h"
#include "cpu/kernels.h"
#include "ggml-cpu.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

namespace ggml_sparse {

static ggml_type rounding_of(ggml_type type, x_form form) {
    switch (form) {
        case x_form::F32: return GGML_TYPE_F32;
        case x_form::PLANAR:
        case x_form::INLAID: return GGML_TYPE_Q8_0;
        case x_form::GGML: break;
    }
    return ggml_get_type_traits_cpu(type)->vec_dot_type;
}

static const std::array<weight_type, SPARSE_TYPE_COUNT> & weight_types() {
    static const std::array<weight_type, SPARSE_TYPE_COUNT> types = {{
#define SPARSE_TYPE(NAME, name, FORM, AXPY)                                                                                                \
    {GGML_TYPE_##NAME,    #name,                                                                                                           \
     x_form::FORM,        rounding_of(GGML_TYPE_##NAME, x_form::FORM),                                                                     \
     SPARSE_INDEX_##NAME, ggml_get_type_traits(GGML_TYPE_##NAME)->blck_size},
#include "quants.def"
#undef SPARSE_TYPE
    }};
    return types;
}

int weight_type_count() { return SPARSE_TYPE_COUNT; }

const weight_type & weight_type_at(int index) { return weight_types()[static_cast<size_t>(index)]; }

const weight_type * weight_type_find(int32_t type) {
    for (const weight_type & wt : weight_types()) {
        if (wt.type == type) {
            return &wt;
        }
    }
    return nullptr;
}

static size_t round_up_64(size_t n) { return (n + 63) / 64 * 64; }

size_t x_prepared_size(const weight_type & wt, int64_t n) {
    switch (wt.form) {
        case x_form::F32: return round_up_64(static_cast<size_t>(n) * sizeof(float));
        case x_form::PLANAR: return round_up_64(static_cast<size_t>(n + n / 32 * 8)); // dots may read to the end
        case x_form::INLAID: return inlaid_layout_of(n, ggml_type_size(wt.type)).size();
        case x_form::GGML: return round_up_64(ggml_row_size(wt.x_type, n));
    }
    return 0;
}

// ggml's q8_0 block, declared here because ggml-common.h is not installed.
struct q8_0 {
    ggml_fp16_t d;
    int8_t      qs[32];
};

// Calls f(index of the block, block) for x rounded to q8_0.
template <typename F> static void each_q8_0(const float * x, int64_t n, F && f) {
    auto round = ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float;
    for (int64_t i = 0; i < n; i += 256) {
        const int64_t n_part = std::min<int64_t>(256, n - i);
        q8_0          blocks[256 / 32];
        round(x + i, blocks, n_part);
        for (int64_t b = 0; b < n_part / 32; ++b) {
            f(i / 32 + b, blocks[b]);
        }
    }
}

static void prepare_planar(const float * x, int64_t n, int8_t * qs) {
    float * d   = reinterpret_cast<float *>(qs + n);
    float * sum = d + n / 32;
    each_q8_0(x, n, [=](int64_t at, const q8_0 & block) {
        std::memcpy(qs + at * 32, block.qs, 32);
        d[at]   = ggml_fp16_to_fp32(block.d);
        sum[at] = d[at] * static_cast<float>(std::accumulate(block.qs, block.qs + 32, 0)); // exact
    });
}

// offset[i / 4] -= zero * x, for the dwords that n quants from byte i on lie in. Two of them at
// a time: a block may begin in the middle of a dword, never at an odd byte.
static void add_offsets(const int8_t * q, int n, size_t i, int zero, int32_t * offset) {
    for (int k = 0; k < n; k += 2) {
        offset[(i + static_cast<size_t>(k)) / 4] -= zero * (q[k] + q[k + 1]);
    }
}

static void prepare_inlaid(const float * x, int64_t n, size_t block_bytes, uint8_t * dst) {
    const inlaid_layout l       = inlaid_layout_of(n, block_bytes);
    const int           n_plane = static_cast<int>(l.n_quants), n_quant = 32 / n_plane, zero = n_plane == 1 ? 128 : 8;
    int32_t *           offset = reinterpret_cast<int32_t *>(dst + l.offset());
    float *             scale  = reinterpret_cast<float *>(dst + l.scale());
    std::memset(dst, 0, l.size());
    each_q8_0(x, n, [=](int64_t b, const q8_0 & block) {
        const size_t at = static_cast<size_t>(b) * block_bytes + 2;
        scale[b]        = ggml_fp16_to_fp32(block.d);
        for (int p = 0; p < n_plane; ++p) {
            std::memcpy(dst + static_cast<size_t>(p) * l.plane + at, block.qs + p * n_quant, static_cast<size_t>(n_quant));
            add_offsets(block.qs + p * n_quant, n_quant, at, zero, offset);
        }
    });
}

const void * x_prepare(const weight_type & wt, const float * x, int64_t n, void * dst) {
    switch (wt.form) {
        case x_form::F32: return x;
        case x_form::PLANAR: prepare_planar(x, n, static_cast<int8_t *>(dst)); break;
        case x_form::INLAID: prepare_inlaid(x, n, ggml_type_size(wt.type), static_cast<uint8_t *>(dst)); break;
        case x_form::GGML: ggml_get_type_traits_cpu(wt.x_type)->from_float(x, dst, n); break;
    }
    return dst;
}

// q8_K exists in ggml for activations only and has no to_float: {f32 d, 256 x i8, 16 x i16 sums}.
static void unpack_q8_k(const uint8_t * src, float * dst, int64_t n) {
    for (int64_t b = 0; b < n / 256; ++b, src += ggml_type_size(GGML_TYPE_Q8_K)) {
        float d;
        std::memcpy(&d, src, sizeof(d));
        const int8_t * q = reinterpret_cast<const int8_t *>(src + sizeof(d));
        std::transform(q, q + 256, dst + b * 256, [=](int8_t v) { return d * static_cast<float>(v); });
    }
}

void x_round(const weight_type & wt, const float * x, int64_t n, float * dst) {
    if (wt.x_type == GGML_TYPE_F32) {
        std::copy(x, x + n, dst);
        return;
    }
    std::vector<uint8_t> rounded(ggml_row_size(wt.x_type, n));
    ggml_get_type_traits_cpu(wt.x_type)->from_float(x, rounded.data(), n);
    if (wt.x_type == GGML_TYPE_Q8_K) {
        unpack_q8_k(rounded.data(), dst, n);
    } else {
        row_to_float(wt.x_type, rounded.data(), dst, n);
    }
}

void row_to_float(ggml_type type, const void * src, float * dst, int64_t n) {
    if (type == GGML_TYPE_F32) {
        std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
    } else {
        ggml_get_type_traits(type)->to_float(src, dst, n);
    }
}

} // namespace ggml_sparse
