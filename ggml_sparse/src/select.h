#pragma once

// The predictor of one FFN on one column:
//   hidden[i] = relu(fc1[i] . (x * pred_in_scale))
//   mask[j]   = fc2[j] . hidden > threshold, strictly
// With fc2 by hidden unit the logits are a sum of rows instead, and about half the rows, those
// of units that relu made zero, are never read.

#include "rows.h"

namespace ggml_sparse {

// Rows of fc1 or fc2 are computed in units of SELECT_ROWS.
constexpr int64_t SELECT_ROWS = 32;
inline int64_t    select_units(const row_reader & rows) { return (rows.n_row() + SELECT_ROWS - 1) / SELECT_ROWS; }

// Unit u of hidden [r] and of mask [n_ff].
void select_hidden(const row_reader & fc1, const void * x, int64_t u, float * hidden);
void select_mask(const row_reader & fc2, const void * hidden, float threshold, int64_t u, uint8_t * mask);

// --- the same with fc2_t {n_ff, r} ---------------------------------------------------
//
// The units that are not zero are listed, and the list is cut into N_UNIT_PIECE pieces: a thread
// reads whole rows, which memory gives faster than parts of them. A piece adds its rows in
// ascending order of units, q4_0 rows sixteen at a time as integers (cpu/group-sum.h), others with
// one FMA each; pieces are added in ascending order. Bits depend on the column alone.

constexpr int N_UNIT_PIECE = 4;

struct unit_list {
    int32_t   n;
    int32_t * ids; // [r]
    float *   h;   // [r]
};

// Fills the arrays of `list` with the units that are not zero. Where rows are summed as integers, a
// column with NaN or Inf, which quantised rows do not allow, has none.
void list_units(const row_reader & fc2_t, const float * hidden, unit_list & list);

// Neurons j0 .. j1 - 1 of one piece's logits, overwritten; how many rows were read.
int64_t sum_units(const row_reader & fc2_t, const unit_list & units, int piece, int64_t j0, int64_t j1, float * logits);
// mask[j] for j0 <= j < j1, from the logits of all pieces, `stride` apart.
void select_by_logits(const float * logits, int64_t stride, float threshold, int64_t j0, int64_t j1, uint8_t * mask);

// relu that keeps NaN.
inline float relu(float a) { return a <= 0.0f ? 0.0f : a; }

} // namespace ggml_sparse
