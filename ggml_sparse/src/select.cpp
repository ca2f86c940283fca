#include "select.h"

#include <algorithm>

namespace ggml_sparse {

static constexpr int64_t N_CHUNK = 32; // rows per unit of work
static constexpr int64_t N_AHEAD = 2;  // rows prefetched ahead of a dot

void select_hidden(const row_reader & fc1, const prepared_columns & cols, float * hidden, work_share work) {
    const int64_t r = fc1.n_row();
    for (int64_t u; (u = work.take((r + N_CHUNK - 1) / N_CHUNK)) >= 0;) {
        for (int64_t i = u * N_CHUNK; i < std::min(r, (u + 1) * N_CHUNK); ++i) {
            for (int c = 0; c < cols.n; ++c) {
                hidden[c * r + i] = relu(fc1.dot(i, cols.x[c], std::min(i + N_AHEAD, r - 1)));
            }
        }
    }
}

void select_mask(const row_reader & fc2, const prepared_columns & hidden, float threshold, uint8_t * mask, int64_t stride,
                 work_share work) {
    const int64_t n_ff = fc2.n_row();
    for (int64_t u; (u = work.take((n_ff + N_CHUNK - 1) / N_CHUNK)) >= 0;) {
        for (int64_t j = u * N_CHUNK; j < std::min(n_ff, (u + 1) * N_CHUNK); ++j) {
            for (int c = 0; c < hidden.n; ++c) {
                mask[c * stride + j] = fc2.dot(j, hidden.x[c], std::min(j + N_AHEAD, n_ff - 1)) > threshold;
            }
        }
    }
}

} // namespace ggml_sparse
