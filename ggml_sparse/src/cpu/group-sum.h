#pragma once

// Weighted sums of q4_0 rows: y += sum h[k] * row[ids[k]], sixteen rows at a time.
//
// In each block of 32 columns the factors h * d of sixteen rows, d being a row's scale there, are
// rounded to integers by the largest of them, as a dot rounds x, and the nibbles are summed as integers:
// half the work of an axpy per row. All instruction sets give the same bits; they depend on the rows
// and their order alone, not on how columns are cut. NaN and Inf make NaN of all columns that they touch; where all
// factors are below 2^-110 they are rounded to multiples of 2^-110 divided by the largest integer.

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

constexpr int N_GROUP_ROWS = 16;

struct grouped_rows {
    const uint8_t * data;       // of the first block of the wanted columns in row 0
    size_t          row_stride; // bytes
    int             n_block;    // blocks of 32 columns
};

// ids [n + n_next], h [n], y [32 * n_block]. Rows behind the first n are those of the next call: the first
// sixteen of them are brought to L2 at the end of this one.
using group_sum_fn = void (*)(const grouped_rows & rows, const int32_t * ids, const float * h, int n, int n_next, float * y);

struct group_kernels {
    group_sum_fn rough; // factors have 8 bits, the largest 127: for logits
    group_sum_fn fine;  // 16 bits, the largest 32512: NMSE of a sum below 1e-9
};

// Of rows in ggml's layout, and in that for sums (packed-unit.h), which has whole units of 512 columns.
extern const group_kernels group_kernels_generic[2];
extern const group_kernels group_kernels_avx2[2];
extern const group_kernels group_kernels_avxvnni[2];
extern const group_kernels group_kernels_avx512[2];
extern const group_kernels group_kernels_neon[2];

} // namespace ggml_sparse
