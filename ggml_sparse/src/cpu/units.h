#pragma once

// Weighted sums of q4_0 rows, for a predictor's fc2 by hidden unit (select.h): y = sum h[k] * row[ids[k]].
//
// Units are taken sixteen at a time. In each block of 32 columns their factors h * d, d being the
// row's scale there, are rounded to int8 by the largest of them, as a dot rounds x, and the
// nibbles are summed as integers: half the work of an axpy per row. All instruction sets give
// the same bits; they depend on the units alone, not on how columns are cut.

#include "ggml-sparse.h"

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

constexpr int N_UNIT = 16;

struct unit_rows {
    const uint8_t * data;     // of the first block of the wanted columns in row 0
    size_t          row_size; // bytes from row to row
    int             n_block;  // blocks of 32 columns
};

// ids [n + n_next], rising; h [n], finite. y [32 * n_block] is overwritten. Rows behind the first n are those of the next
// call: its first group is brought to L2 at the end of this one.
using unit_sum_fn = void (*)(const unit_rows & rows, const int32_t * ids, const float * h, int n, int n_next, float * y);

extern const unit_sum_fn unit_sum_generic;
extern const unit_sum_fn unit_sum_avx2;
extern const unit_sum_fn unit_sum_avxvnni;
extern const unit_sum_fn unit_sum_avx512;

// Of an instruction set that this CPU runs.
unit_sum_fn unit_sum_get(ggml_sparse_isa isa);

} // namespace ggml_sparse
