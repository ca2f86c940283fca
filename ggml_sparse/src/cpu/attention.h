#pragma once

// The contract of the attention kernels: a step of the online softmax (arXiv 2205.14135) for some
// queries of one KV head over a block of its KV rows. attention.cpp is compiled once per instruction set,
// like kernels.cpp.
//
// A query's bits depend on its q, the rows and its mask alone, never on the other queries of the call: a dot
// sums W lanes over the row, weights are summed in W lanes over the block, and values are added row by row,
// one FMA per element. A row whose mask is -inf has weight +0 and so leaves no trace, unless it holds Inf or NaN.

#include "ggml-sparse.h"

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

constexpr int ATTENTION_BLOCK = 64; // KV rows per step
constexpr int ATTENTION_ALIGN = 16; // sizes of heads are multiples, and where in a block `n_row` rows begin
constexpr int ATTENTION_REUSE = 4;  // above so many queries widened rows are read faster than F16

struct attention_rows { // of one KV head
    const uint8_t * data;
    size_t          stride; // bytes
    const uint8_t * ahead;  // as many bytes as the rows have, wanted soon: any that can be read will do
};

struct attention_type { // how rows of one type are read
    // out [n_row][d] in F32
    void (*widen)(const attention_rows & rows, int n_row, int64_t d, float * out);
    // scores [n_q][ATTENTION_BLOCK]: q [n_q][d] . row; the rest of the block is undefined. Null: widen first.
    void (*dots)(const attention_rows & rows, int n_row, int64_t d, const float * q, int n_q, float * scores);
    // acc [n_q][d] += sum over rows of weights [n_q][ATTENTION_BLOCK] * row. Null: widen first.
    void (*add)(const attention_rows & rows, int n_row, int64_t d, const float * weights, int n_q, float * acc);
};

struct attention_kernels {
    attention_type f32, f16, q8_0;
    // One query: scores [ATTENTION_BLOCK] become weights exp(score * scale + mask - max); raises max, adds to
    // sum, and returns what acc has to be multiplied with. `mask` [n_row] is F16. Max is -inf before the first row.
    float (*weigh)(float * scores, int n_row, const uint16_t * mask, float scale, float * max, float * sum);
    // x [n] *= factor
    void (*scale)(float * x, int64_t n, float factor);
    // acc [n], max and sum of a range of rows join those of the ranges before it.
    void (*merge)(int64_t n, float * acc, float * max, float * sum, const float * part, float part_max, float part_sum);
};

extern const attention_kernels attention_kernels_generic;
extern const attention_kernels attention_kernels_avx2;
extern const attention_kernels attention_kernels_avxvnni;
extern const attention_kernels attention_kernels_avx512;
extern const attention_kernels attention_kernels_neon;

// Of an instruction set that this CPU can run (dispatch.cpp).
const attention_kernels & attention_kernels_get(ggml_sparse_isa isa);

} // namespace ggml_sparse
