#pragma once

// The predictor of one FFN, as phases over a few columns:
//   hidden[c][i] = relu(fc1[i] . (x[c] * pred_in_scale))
//   mask[c][j]   = fc2[j] . hidden[c] > threshold, strictly
// With fc2 by hidden unit the logits are a sum of rows instead, and about half the rows, those
// of units that relu made zero, are never read.
// A phase is called by every thread; phases are separated by barriers.

#include "cpu/units.h"
#include "rows.h"

namespace ggml_sparse {

constexpr int N_COLUMN_MAX = 16; // columns of one call

// x of n columns, prepared for the dots against one matrix.
struct prepared_columns {
    int          n;
    const void * x[N_COLUMN_MAX];
};

// hidden: [n][r] F32.
void select_hidden(const row_reader & fc1, const prepared_columns & cols, float * hidden, work_share work);
// mask: n rows of n_ff bytes, `stride` apart.
void select_mask(const row_reader & fc2, const prepared_columns & hidden, float threshold, uint8_t * mask, int64_t stride, work_share work);

// The same with fc2_t {n_ff, r}. Types with integer sums (cpu/units.h) want the units that are
// not zero listed first; others read hidden as it is and add rows in ascending order of units,
// one FMA each. Bits depend on the column alone.
bool sums_integers(const row_reader & fc2_t);
// ids and h [r] receive the units of one column that are not zero; returns how many. A column
// with NaN or Inf, which quantised rows do not allow, has none.
int32_t list_units(const float * hidden, int64_t r, int32_t * ids, float * h);

struct hidden_units {
    int             n;      // columns
    const float *   h;      // [n][r]: hidden, or what list_units made of it
    const int32_t * ids;    // [n][r], null without lists
    const int32_t * n_unit; // [n]
    unit_sum_fn     sum;
};

// A unit of work is `slice` neurons, see select_slice. Returns the bytes of the rows read, a
// column at a time.
uint64_t select_mask_by_unit(const row_reader & fc2_t, const hidden_units & units, int64_t slice, float threshold, uint8_t * mask,
                             int64_t stride, work_share work);
// Neurons per unit of work: short enough for n columns of logits to stay in L1, and for n_thread
// threads to share n_ff evenly.
int64_t select_slice(int64_t n_ff, int n, int n_thread);

// relu that keeps NaN.
inline float relu(float a) { return a <= 0.0f ? 0.0f : a; }

} // namespace ggml_sparse
