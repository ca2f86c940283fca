#include "select.h"

#include <algorithm>
#include <cmath>

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

// --- fc2 by hidden unit ------------------------------------------------------------

static constexpr int64_t N_LOGIT     = 8192; // floats of logits that a thread holds
static constexpr int64_t N_ALIGN     = 256;  // slices end at a block's edge, whatever the type
static constexpr int     N_ROW_AHEAD = 4;    // rows prefetched ahead of the one that is added

int64_t select_slice(int64_t n_ff, int n, int n_thread) {
    const int64_t fair = (n_ff + 2 * n_thread - 1) / (2 * n_thread);
    return std::min(N_LOGIT / n, (fair + N_ALIGN - 1) / N_ALIGN * N_ALIGN) / N_ALIGN * N_ALIGN;
}

// One row, for the columns where its unit is not zero.
struct unit_columns {
    int     n = 0;
    float   h[N_COLUMN_MAX];
    float * y[N_COLUMN_MAX];
};

static unit_columns columns_of(const float * hidden, int64_t r, int64_t i, int n, float * logits, int64_t stride) {
    unit_columns u;
    for (int c = 0; c < n; ++c) {
        u.h[u.n] = hidden[c * r + i];
        u.y[u.n] = logits + c * stride;
        u.n += hidden[c * r + i] != 0.0f;
    }
    return u;
}

// logits [n][stride] += neurons j0 .. j1 - 1 of the rows whose unit is not zero; how many, over all columns.
static uint64_t add_rows_of_one(const row_reader & fc2_t, const float * hidden, int64_t j0, int64_t j1, float * logits) {
    constexpr int N_ID  = 512;
    uint64_t      n_row = 0;
    for (int64_t i0 = 0; i0 < fc2_t.n_row(); i0 += N_ID) {
        int32_t ids[N_ID];
        int     n = 0;
        for (int64_t i = i0; i < std::min(fc2_t.n_row(), i0 + N_ID); ++i) {
            ids[n] = static_cast<int32_t>(i);
            n += hidden[i] != 0.0f;
        }
        fc2_t.axpy_by_id(n, ids, hidden, j0, j1, logits);
        n_row += static_cast<uint64_t>(n);
    }
    return n_row;
}

static uint64_t add_rows(const row_reader & fc2_t, const float * hidden, int n, int64_t j0, int64_t j1, float * logits, int64_t stride) {
    if (n == 1) {
        return add_rows_of_one(fc2_t, hidden, j0, j1, logits);
    }
    const int64_t r     = fc2_t.n_row();
    uint64_t      n_row = 0;
    for (int64_t i = 0, ahead = 0, n_ahead = 0; i < r; ++i) {
        for (; ahead < r && n_ahead < N_ROW_AHEAD; ++ahead) {
            if (hidden[ahead] != 0.0f) { // of the first column: the others are no worse off without
                fc2_t.prefetch(ahead, j0, j1);
                ++n_ahead;
            }
        }
        const unit_columns u = columns_of(hidden, r, i, n, logits, stride);
        if (u.n > 0) {
            fc2_t.axpy_columns(i, u.n, u.h, j0, j1, u.y);
            n_row += static_cast<uint64_t>(u.n);
        }
        n_ahead -= hidden[i] != 0.0f;
    }
    return n_row;
}

bool sums_integers(const row_reader & fc2_t) { return fc2_t.type().type == GGML_TYPE_Q4_0; }

int32_t list_units(const float * hidden, int64_t r, int32_t * ids, float * h) {
    int32_t n      = 0;
    bool    finite = true;
    for (int64_t i = 0; i < r; ++i) {
        if (hidden[i] != 0.0f) {
            ids[n] = static_cast<int32_t>(i);
            h[n++] = hidden[i];
            finite = finite && std::isfinite(hidden[i]);
        }
    }
    return finite ? n : 0;
}

// logits [n][stride] of neurons j0 .. j1 - 1; returns how many rows were read, over all columns.
static uint64_t sum_units(const row_reader & fc2_t, const hidden_units & units, int64_t j0, int64_t j1, float * logits, int64_t stride) {
    if (!units.ids) {
        std::fill(logits, logits + units.n * stride, 0.0f);
        return add_rows(fc2_t, units.h, units.n, j0, j1, logits, stride);
    }
    const int64_t   r = fc2_t.n_row();
    const unit_rows rows{fc2_t.row(0) + ggml_row_size(GGML_TYPE_Q4_0, j0), fc2_t.row_size(), static_cast<int>((j1 - j0) / 32)};
    uint64_t        n_row = 0;
    for (int c = 0; c < units.n; ++c) {
        units.sum(rows, units.ids + c * r, units.h + c * r, units.n_unit[c], logits + c * stride);
        n_row += static_cast<uint64_t>(units.n_unit[c]);
    }
    return n_row;
}

uint64_t select_mask_by_unit(const row_reader & fc2_t, const hidden_units & units, int64_t slice, float threshold, uint8_t * mask,
                             int64_t stride, work_share work) {
    const int64_t     n_ff    = fc2_t.n_col();
    uint64_t          n_bytes = 0;
    alignas(64) float logits[N_LOGIT];
    for (int64_t u; (u = work.take((n_ff + slice - 1) / slice)) >= 0;) {
        const int64_t j0 = u * slice, j1 = std::min(n_ff, j0 + slice);
        n_bytes += sum_units(fc2_t, units, j0, j1, logits, slice) * ggml_row_size(fc2_t.type().type, j1 - j0);
        for (int c = 0; c < units.n; ++c) {
            for (int64_t j = j0; j < j1; ++j) {
                mask[c * stride + j] = logits[c * slice + (j - j0)] > threshold;
            }
        }
    }
    return n_bytes;
}

} // namespace ggml_sparse
