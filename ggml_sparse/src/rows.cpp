#include "rows.h"

#include <algorithm>

namespace ggml_sparse {

row_reader::row_reader(const ggml_sparse_matrix & m, const sparse_kernels & kernels)
    : data_(static_cast<const uint8_t *>(m.data)), n_col_(m.n_col), n_row_(m.n_row),
      row_size_(ggml_row_size(static_cast<ggml_type>(m.type), m.n_col)), type_(weight_type_find(m.type)),
      dot_(kernels.rows[type_->index].dot), axpy_(kernels.rows[type_->index].axpy), axpy_f32_(kernels.rows[SPARSE_INDEX_F32].axpy),
      tiles_(&kernels.batch->tiles[type_->index]) {}

// 256 is a multiple of every block, and its floats stay in L1.
static constexpr int64_t N_SLICE = 256;

void row_reader::axpy(int64_t i, float h, int64_t c0, int64_t c1, float * y) const {
    if (axpy_) {
        axpy_(c1 - c0, h, row(i) + ggml_row_size(type_->type, c0), y);
        return;
    }
    for (int64_t c = c0; c < c1; c += N_SLICE) {
        const int64_t n = std::min(N_SLICE, c1 - c);
        float         w[N_SLICE];
        row_to_float(type_->type, row(i) + ggml_row_size(type_->type, c), w, n);
        axpy_f32_(n, h, w, y + (c - c0));
    }
}

void row_reader::axpy_columns(int64_t i, int n, const float * h, int64_t c0, int64_t c1, float * const * y) const {
    if (n == 1) {
        axpy(i, h[0], c0, c1, y[0]);
        return;
    }
    for (int64_t c = c0; c < c1; c += N_SLICE) {
        const int64_t n_part = std::min(N_SLICE, c1 - c);
        float         w[N_SLICE];
        row_to_float(type_->type, row(i) + ggml_row_size(type_->type, c), w, n_part);
        for (int k = 0; k < n; ++k) {
            axpy_f32_(n_part, h[k], w, y[k] + (c - c0));
        }
    }
}

} // namespace ggml_sparse
