#include "select.h"

#include <algorithm>
#include <cmath>

namespace ggml_sparse {

static constexpr int64_t N_AHEAD = 1; // rows prefetched ahead of a dot

void select_hidden(const row_reader & fc1, const void * x, int64_t u, float * hidden) {
    const int64_t r = fc1.n_row();
    for (int64_t i = u * SELECT_ROWS; i < std::min(r, (u + 1) * SELECT_ROWS); ++i) {
        hidden[i] = relu(fc1.dot(i, x, fc1.ahead_in_order(i, N_AHEAD)));
    }
}

void select_mask(const row_reader & fc2, const void * hidden, float threshold, int64_t u, uint8_t * mask) {
    const int64_t n_ff = fc2.n_row();
    for (int64_t j = u * SELECT_ROWS; j < std::min(n_ff, (u + 1) * SELECT_ROWS); ++j) {
        mask[j] = fc2.dot(j, hidden, fc2.ahead_in_order(j, N_AHEAD)) > threshold;
    }
}

// --- fc2 by hidden unit ------------------------------------------------------------

void list_units(const row_reader & fc2_t, const float * hidden, unit_list & list) {
    int32_t n      = 0;
    bool    finite = true;
    for (int64_t i = 0; i < fc2_t.n_row(); ++i) { // about half are zero, in no order: written first, counted if wanted
        list.ids[n] = static_cast<int32_t>(i);
        list.h[n]   = hidden[i];
        n += hidden[i] != 0.0f;
        finite = finite && std::isfinite(hidden[i]);
    }
    list.n = finite || !fc2_t.has_groups() ? n : 0;
}

// Where a piece begins in the list: between groups of units.
static int32_t piece_start(int32_t n, int piece) {
    const int32_t n_group = (n + N_GROUP_ROWS - 1) / N_GROUP_ROWS;
    return std::min(n, n_group * piece / N_UNIT_PIECE * N_GROUP_ROWS);
}

int64_t sum_units(const row_reader & fc2_t, const unit_list & units, int piece, int64_t j0, int64_t j1, float * logits) {
    const int32_t   k = piece_start(units.n, piece), n = piece_start(units.n, piece + 1) - k;
    const int32_t * ids = units.ids + k;
    const float *   h   = units.h + k;
    std::fill(logits, logits + (j1 - j0), 0.0f);
    if (fc2_t.has_groups()) {
        fc2_t.groups().rough(fc2_t.columns(j0, j1), ids, h, n, std::min(units.n - k - n, N_GROUP_ROWS), logits);
    } else {
        fc2_t.axpy_list(n, ids, h, 0, j0, j1, logits);
    }
    return n;
}

void select_by_logits(const float * logits, int64_t stride, float threshold, int64_t j0, int64_t j1, uint8_t * mask) {
    static_assert(N_UNIT_PIECE == 4, "written out below");
    const float *a = logits, *b = a + stride, *c = b + stride, *d = c + stride;
    for (int64_t j = j0; j < j1; ++j) {
        mask[j] = a[j] + b[j] + c[j] + d[j] > threshold;
    }
}

} // namespace ggml_sparse
