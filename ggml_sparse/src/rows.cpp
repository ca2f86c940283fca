#include "rows.h"

#include <algorithm>

namespace ggml_sparse {

row_reader::row_reader(const ggml_sparse_matrix & m, const sparse_kernels & kernels)
    : data_(static_cast<const uint8_t *>(m.data)), n_col_(m.n_col), n_row_(m.n_row),
      row_size_(ggml_row_size(static_cast<ggml_type>(m.type), m.n_col)), type_(weight_type_find(m.type, m.layout)),
      dot_(kernels.rows[type_->index].dot), axpy_(kernels.rows[type_->index].axpy), axpy_f32_(kernels.rows[SPARSE_INDEX_F32].axpy),
      tiles_(&kernels.batch->tiles[type_->index]) {}

void row_reader::axpy(int n, const int32_t * ids, const int32_t * ahead, const float * h, int64_t c0, int64_t c1, float * y) const {
    const size_t offset = ggml_row_size(type_->type, c0);
    const void * w[AXPY_ROWS];
    const void * next[AXPY_ROWS];
    for (int k = 0; k < n; ++k) {
        w[k]    = row(ids[k]) + offset;
        next[k] = row(ahead[k]) + offset;
    }
    axpy_(c1 - c0, n, h, w, next, y);
}

void row_reader::axpy_ids(int64_t n, const int32_t * ids, const float * h, int64_t c0, int64_t c1, float * y) const {
    int32_t few[AXPY_ROWS];
    float   hs[AXPY_ROWS];
    int     n_few = 0;
    for (int64_t k = 0; k < n; ++k) {
        if (ids[k] >= 0) {
            few[n_few]  = ids[k];
            hs[n_few++] = h[k];
        }
        if (n_few == AXPY_ROWS || (n_few > 0 && k == n - 1)) {
            axpy(n_few, few, few, hs, c0, c1, y);
            n_few = 0;
        }
    }
}

void row_reader::axpy_by_id(int n, const int32_t * ids, const float * h, int64_t c0, int64_t c1, float * y) const {
    for (int k = 0; k < n; k += AXPY_ROWS) {
        const int n_few = std::min(AXPY_ROWS, n - k);
        int32_t   ahead[AXPY_ROWS];
        float     hs[AXPY_ROWS];
        for (int i = 0; i < n_few; ++i) {
            ahead[i] = ids[std::min(k + AXPY_ROWS + i, n - 1)];
            hs[i]    = h[ids[k + i]];
        }
        axpy(n_few, ids + k, ahead, hs, c0, c1, y);
    }
}

// A multiple of every block, and its floats stay in L1.
static constexpr int64_t N_SLICE = 512;

void row_reader::axpy_columns(int64_t i, int n, const float * h, int64_t c0, int64_t c1, float * const * y) const {
    for (int64_t c = c0; c < c1; c += N_SLICE) {
        const int64_t n_part     = std::min(N_SLICE, c1 - c);
        const void *  w          = row(i) + ggml_row_size(type_->type, c);
        float         v[N_SLICE] = {};
        const void *  floats     = v;
        const float   one        = 1;
        axpy_(n_part, 1, &one, &w, &w, v);
        for (int k = 0; k < n; ++k) {
            axpy_f32_(n_part, 1, h + k, &floats, &floats, y[k] + (c - c0));
        }
    }
}

} // namespace ggml_sparse
