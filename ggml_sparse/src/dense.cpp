#include "dense.h"

#include "buffer.h"
#include "rows.h"
#include "types.h"

#include <algorithm>

namespace ggml_sparse {

static constexpr int64_t k_max_columns = 8;  // beyond, ggml's kernels reuse a row better
static constexpr int64_t k_chunk       = 32; // rows per unit of work

bool dense_supports(const ggml_tensor * op) {
    const ggml_tensor * w = op->src[0];
    const ggml_tensor * x = op->src[1];
    if (op->op != GGML_OP_MUL_MAT || !is_mapped(w) || !weight_type_find(w->type)) {
        return false;
    }
    const bool flat = w->ne[2] == 1 && w->ne[3] == 1 && x->ne[2] == 1 && x->ne[3] == 1;
    return flat && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->type == GGML_TYPE_F32 && x->ne[1] <= k_max_columns;
}

static const float * column(const ggml_tensor * t, int64_t i) {
    return reinterpret_cast<const float *>(static_cast<const char *>(t->data) + size_t(i) * t->nb[1]);
}

void dense_run(const ggml_tensor * op, int n_threads, const sparse_kernels & kernels, ffn_workspace & ws) {
    const ggml_tensor *      x = op->src[1];
    const ggml_sparse_matrix m{int32_t(op->src[0]->type), op->src[0]->ne[0], op->src[0]->ne[1], op->src[0]->data};
    const row_reader         rows(m, kernels);
    const size_t             stride = x_prepared_size(rows.type(), m.n_col);
    uint8_t *                space  = static_cast<uint8_t *>(ws.reserve(stride * size_t(k_max_columns)));
    const void *             prepared[k_max_columns];
    for (int64_t c = 0; c < x->ne[1]; ++c) {
        prepared[c] = x_prepare(rows.type(), column(x, c), m.n_col, space + size_t(c) * stride);
    }
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int64_t i0 = 0; i0 < m.n_row; i0 += k_chunk) {
        for (int64_t i = i0; i < std::min(m.n_row, i0 + k_chunk); ++i) {
            for (int64_t c = 0; c < x->ne[1]; ++c) {
                const_cast<float *>(column(op, c))[i] = rows.dot(i, prepared[c], std::min(i + 2, m.n_row - 1));
            }
        }
    }
}

} // namespace ggml_sparse
