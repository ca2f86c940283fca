#pragma once

// Dot of an F32, F16 or BF16 row with x in F32: four sums of W lanes, added pairwise.

#include "simd.h"

namespace ggml_sparse {
namespace {

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

} // namespace
} // namespace ggml_sparse
