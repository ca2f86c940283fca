// Compiled once per instruction set, like kernels.cpp, with ATTENTION_TABLE = the name of its table.

#include "attention.h"

#include "attention-simd.h"
#include "dot-floats.h"

namespace ggml_sparse {
namespace {

constexpr int MASK_NONE = 0xfc00; // -inf in F16
constexpr int SUB_BLOCK = 16;     // rows whose lines stay in L1 while sums of other columns are added

template <typename row> const typename row::elem * row_at(const attention_rows & rows, int r) {
    return reinterpret_cast<const typename row::elem *>(rows.data + static_cast<size_t>(r) * rows.stride);
}

inline int smaller(int a, int b) { return a < b ? a : b; }

inline int queries_at_once(int left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

// Bytes [b0, b1) of what is wanted soon; calls in order fetch each line once. A few lines at a time: a burst takes the buffers
// that loads need. Inlined at once, or gcc takes a function that only prefetches for one without effect and drops the calls.
__attribute__((always_inline)) inline void prefetch_ahead(const attention_rows & rows, size_t b0, size_t b1) {
    for (size_t b = (b0 + 63) / 64 * 64; b < b1; b += 64) {
        __builtin_prefetch(rows.ahead + b, 0, 2);
    }
}

// --- widen ---------------------------------------------------------------------------------

template <typename row> void widen(const attention_rows & rows, int n_row, int64_t d, float * out) {
    for (int r = 0; r < n_row; ++r) {
        const auto * w = row_at<row>(rows, r);
        prefetch_ahead(rows, static_cast<size_t>(r * d) * sizeof(*w), static_cast<size_t>((r + 1) * d) * sizeof(*w));
        for (int64_t i = 0; i < d; i += W) {
            vf_store(out + r * d + i, row::load(w + i));
        }
    }
}

constexpr int64_t Q8_BLOCK = 32, Q8_BYTES = 34; // f16 d, int8 [32]

void widen_q8_0(const attention_rows & rows, int n_row, int64_t d, float * out) {
    for (int r = 0; r < n_row; ++r) {
        const uint8_t * w = rows.data + static_cast<size_t>(r) * rows.stride;
        prefetch_ahead(rows, static_cast<size_t>(r * d / Q8_BLOCK * Q8_BYTES), static_cast<size_t>((r + 1) * d / Q8_BLOCK * Q8_BYTES));
        for (int64_t b = 0; b < d; b += Q8_BLOCK, w += Q8_BYTES) {
            const vf scale = vf_set1(load_half(w));
            for (int64_t i = 0; i < Q8_BLOCK; i += W) {
                vf_store(out + r * d + b + i, vf_mul(scale, vf_load_i8(reinterpret_cast<const int8_t *>(w) + 2 + i)));
            }
        }
    }
}

// --- dots ----------------------------------------------------------------------------------

// NQ queries with W / NQ rows at a time: one sum for each lane of a vector.
template <typename row, int NQ> void dots_n(const attention_rows & rows, int n_row, int64_t d, const float * q, float * scores) {
    constexpr int NR = W / NQ;
    for (int r = 0; r < n_row; r += NR) {
        const typename row::elem * w[NR];
        vf                         acc[W];
        for (int i = 0; i < NR; ++i) {
            w[i] = row_at<row>(rows, smaller(r + i, n_row - 1));
        }
        for (int i = 0; i < W; ++i) {
            acc[i] = vf_set1(0);
        }
        for (int64_t c = 0; c < d; c += W) {
            vf v[NR];
            for (int i = 0; i < NR; ++i) {
                v[i] = row::load(w[i] + c);
            }
            prefetch_ahead(rows, static_cast<size_t>(r * d + c * NR) * sizeof(*w[0]),
                           static_cast<size_t>(r * d + (c + W) * NR) * sizeof(*w[0]));
            for (int k = 0; k < NQ; ++k) {
                const vf x = vf_load(q + k * d + c);
                for (int i = 0; i < NR; ++i) {
                    acc[k * NR + i] = vf_fma(v[i], x, acc[k * NR + i]);
                }
            }
        }
        float sums[W];
        vf_store(sums, vf_sums(acc));
        for (int k = 0; k < NQ; ++k) {
            memcpy(scores + k * ATTENTION_BLOCK + r, sums + k * NR, NR * sizeof(float));
        }
    }
}

template <typename row> void dots(const attention_rows & rows, int n_row, int64_t d, const float * q, int n_q, float * scores) {
    attention_rows w = rows;
    for (int k = 0, n; k < n_q; k += n, w.ahead = w.data) {
        n         = queries_at_once(n_q - k);
        auto some = n == 4 ? dots_n<row, 4> : n == 2 ? dots_n<row, 2> : dots_n<row, 1>;
        some(w, n_row, d, q + k * d, scores + k * ATTENTION_BLOCK);
    }
}

// --- weights -------------------------------------------------------------------------------

inline vf mask_at(const uint16_t * mask, int r, int n_row) {
    if (r + W <= n_row) {
        return vf_load_f16(mask + r);
    }
    uint16_t t[W];
    for (int i = 0; i < W; ++i) {
        t[i] = r + i < n_row ? mask[r + i] : static_cast<uint16_t>(MASK_NONE);
    }
    return vf_load_f16(t);
}

inline float exp_of(float x) {
    float t[W];
    vf_store(t, vf_exp(vf_set1(x)));
    return t[0];
}

constexpr float NOTHING = -__builtin_inff(); // max before the first row

// What weights are relative to: anything finite while there is no row.
inline float base_of(float max) { return max == NOTHING ? 0.0f : max; }

float weigh(float * scores, int n_row, const uint16_t * mask, float scale, float * max, float * sum) {
    vf best = vf_set1(*max);
    for (int r = 0; r < n_row; r += W) {
        const vf dot = r + W <= n_row ? vf_load(scores + r) : vf_load_n(scores + r, n_row - r);
        const vf s   = vf_fma(dot, vf_set1(scale), mask_at(mask, r, n_row));
        vf_store(scores + r, s);
        best = vf_max(s, best);
    }
    const float old = *max;
    *max            = vf_largest(best);
    const vf minus  = vf_set1(-base_of(*max));
    vf       total  = vf_set1(0);
    for (int r = 0; r < n_row; r += W) {
        const vf w = vf_exp(vf_add(vf_load(scores + r), minus));
        vf_store(scores + r, w);
        total = vf_add(total, w);
    }
    const float factor = old == *max ? 1.0f : exp_of(old - base_of(*max)); // which is 1 at 0
    *sum               = *sum * factor + vf_sum(total);
    return factor;
}

// --- values --------------------------------------------------------------------------------

// Rows [r0, r1) into columns c .. c + ND * W - 1.
template <typename row, int NQ, int ND>
void add_columns(const attention_rows & rows, int r0, int r1, int64_t d, int64_t c, const float * weights, float * acc) {
    const int64_t at = r0 * d + c * (r1 - r0); // of elements, how many have been added
    vf            sum[NQ][ND];                 // in registers once its loops are unrolled
#pragma GCC unroll 4
    for (int k = 0; k < NQ; ++k) {
#pragma GCC unroll 4
        for (int i = 0; i < ND; ++i) {
            sum[k][i] = vf_load(acc + k * d + c + i * W);
        }
    }
    for (int r = r0; r < r1; ++r) {
        const auto * w = row_at<row>(rows, r) + c;
        vf           v[ND];
        prefetch_ahead(rows, static_cast<size_t>(at + (r - r0) * ND * W) * sizeof(*w),
                       static_cast<size_t>(at + (r - r0 + 1) * ND * W) * sizeof(*w));
#pragma GCC unroll 4
        for (int i = 0; i < ND; ++i) {
            v[i] = row::load(w + i * W);
        }
#pragma GCC unroll 4
        for (int k = 0; k < NQ; ++k) {
            const vf h = vf_set1(weights[k * ATTENTION_BLOCK + r]);
#pragma GCC unroll 4
            for (int i = 0; i < ND; ++i) {
                sum[k][i] = vf_fma(v[i], h, sum[k][i]);
            }
        }
    }
#pragma GCC unroll 4
    for (int k = 0; k < NQ; ++k) {
#pragma GCC unroll 4
        for (int i = 0; i < ND; ++i) {
            vf_store(acc + k * d + c + i * W, sum[k][i]);
        }
    }
}

template <typename row, int NQ> void add_n(const attention_rows & rows, int n_row, int64_t d, const float * weights, float * acc) {
    constexpr int ND = W == 8 ? 2 : 4; // sums that the registers hold
    for (int r0 = 0; r0 < n_row; r0 += SUB_BLOCK) {
        const int r1 = smaller(r0 + SUB_BLOCK, n_row);
        int64_t   c  = 0;
        for (; c + ND * W <= d; c += ND * W) {
            add_columns<row, NQ, ND>(rows, r0, r1, d, c, weights, acc);
        }
        for (; c < d; c += W) {
            add_columns<row, NQ, 1>(rows, r0, r1, d, c, weights, acc);
        }
    }
}

template <typename row> void add(const attention_rows & rows, int n_row, int64_t d, const float * weights, int n_q, float * acc) {
    attention_rows w = rows;
    for (int k = 0, n; k < n_q; k += n, w.ahead = w.data) {
        n         = queries_at_once(n_q - k);
        auto some = n == 4 ? add_n<row, 4> : n == 2 ? add_n<row, 2> : add_n<row, 1>;
        some(w, n_row, d, weights + k * ATTENTION_BLOCK, acc + k * d);
    }
}

// --- sums ----------------------------------------------------------------------------------

void scale(float * x, int64_t n, float factor) {
    for (int64_t i = 0; i < n; i += W) {
        vf_store(x + i, vf_mul(vf_load(x + i), vf_set1(factor)));
    }
}

void merge(int64_t n, float * acc, float * max, float * sum, const float * part, float part_max, float part_sum) {
    const float both = *max > part_max ? *max : part_max;
    const float a = exp_of(*max - base_of(both)), b = exp_of(part_max - base_of(both));
    for (int64_t i = 0; i < n; i += W) {
        vf_store(acc + i, vf_fma(vf_load(acc + i), vf_set1(a), vf_mul(vf_load(part + i), vf_set1(b))));
    }
    *sum = *sum * a + part_sum * b;
    *max = both;
}

} // namespace

const attention_kernels ATTENTION_TABLE = {
    {widen<f32_row>, dots<f32_row>, add<f32_row>},
    {widen<f16_row>, dots<f16_row>, add<f16_row>},
    {widen_q8_0, nullptr, nullptr},
    weigh,
    scale,
    merge,
};

} // namespace ggml_sparse
