#include "rows.h"

#include "cpu/dispatch.h"

#include <algorithm>

namespace ggml_sparse {

row_reader::row_reader(const ggml_sparse_matrix & m, const sparse_kernels & kernels)
    : data_(static_cast<const uint8_t *>(m.data)), n_col_(m.n_col), n_row_(m.n_row),
      row_size_(ggml_row_size(static_cast<ggml_type>(m.type), m.n_col)), row_stride_(ggml_sparse::row_stride(m)),
      type_(weight_type_find(m.type, m.layout)), dot_(kernels.rows[type_->index].dot), axpy_(kernels.rows[type_->index].axpy),
      tiles_(&kernels.batch->tiles[type_->index]), groups_(kernels.groups), follows_(cpu_follows_rows()) {}

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

void row_reader::axpy_list(int n, const int32_t * ids, const float * h, int n_next, int64_t c0, int64_t c1, float * y) const {
    constexpr int N_AHEAD = 2 * AXPY_ROWS;
    for (int k = 0; k < n; k += AXPY_ROWS) {
        const int n_few = std::min(AXPY_ROWS, n - k);
        int32_t   ahead[AXPY_ROWS];
        for (int i = 0; i < n_few; ++i) {
            ahead[i] = ids[std::min(k + N_AHEAD + i, n + n_next - 1)];
        }
        axpy(n_few, ids + k, ahead, h + k, c0, c1, y);
    }
}

} // namespace ggml_sparse
