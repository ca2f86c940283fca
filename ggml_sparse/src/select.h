#pragma once

// The predictor of one FFN, as three phases over a few columns:
//   hidden[c][i] = relu(fc1[i] . (x[c] * pred_in_scale))
//   mask[c][j]   = fc2[j] . hidden[c] > threshold, strictly
// A phase is called by every thread; phases are separated by barriers.

#include "rows.h"

namespace ggml_sparse {

// x of n columns, prepared for the dots against one matrix.
struct prepared_columns {
    int          n;
    const void * x[16];
};

// hidden: [n][r] F32.
void select_hidden(const row_reader & fc1, const prepared_columns & cols, float * hidden, work_share work);
// mask: n rows of n_ff bytes, `stride` apart.
void select_mask(const row_reader & fc2, const prepared_columns & hidden, float threshold, uint8_t * mask, int64_t stride, work_share work);

// relu that keeps NaN.
inline float relu(float a) { return a <= 0.0f ? 0.0f : a; }

} // namespace ggml_sparse
