#include "dense.h"

#include "buffer.h"
#include "carver.h"
#include "panels.h"
#include "row-split.h"

#include <omp.h>

#include <algorithm>
#include <numeric>

namespace ggml_sparse {

static constexpr int64_t N_CHUNK = 32; // rows per unit of work
static constexpr int64_t N_FEW   = 4;  // columns up to which dots are faster than tiles, for which rows are unpacked

bool dense_supports(const ggml_tensor * op) {
    const ggml_tensor * w = op->src[0];
    const ggml_tensor * x = op->src[1];
    if (op->op != GGML_OP_MUL_MAT || find_matrix(w).type < 0) {
        return false;
    }
    const bool flat = w->ne[2] == 1 && w->ne[3] == 1 && x->ne[2] == 1 && x->ne[3] == 1;
    return flat && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->type == GGML_TYPE_F32;
}

static float * column(const ggml_tensor * t, int64_t i) {
    return reinterpret_cast<float *>(static_cast<char *>(t->data) + size_t(i) * t->nb[1]);
}

// All columns with one row after the other, which stays in cache meanwhile.
static void run_dots(const ggml_tensor * op, const row_reader & rows, int n_threads, ffn_workspace & ws) {
    const size_t  x_size = x_prepared_size(rows.type(), rows.n_col());
    const int64_t n      = op->src[1]->ne[1];
    uint8_t *     space  = static_cast<uint8_t *>(ws.reserve(x_size * size_t(n)));
    const void *  x[N_FEW];
    float *       y[N_FEW];
    for (int64_t c = 0; c < n; ++c) {
        x[c] = x_prepare(rows.type(), column(op->src[1], c), rows.n_col(), space + x_size * size_t(c));
        y[c] = column(op, c);
    }
    row_split split(rows.n_row(), n_threads, N_CHUNK);
#pragma omp parallel num_threads(n_threads)
    while (const row_split::rows part = split.take(omp_get_thread_num())) {
        for (int64_t i = part.begin; i < part.end; ++i) {
            y[0][i] = rows.dot(i, x[0], rows.ahead_in_order(i, 1)); // two ahead is slower
            for (int64_t c = 1; c < n; ++c) {
                y[c][i] = rows.dot(i, x[c]);
            }
        }
    }
}

// Columns c0 .. c0 + n - 1 at once.
static void run_tiles(const ggml_tensor * op, const row_reader & rows, int64_t c0, int n, int n_threads, ffn_workspace & ws) {
    const size_t  tile_size = (row_tile::size(rows) + 63) / 64 * 64;
    const size_t  x_size    = (column_panels(rows, n, nullptr).size() + 63) / 64 * 64;
    uint8_t *     space     = static_cast<uint8_t *>(ws.reserve(x_size + tile_size * size_t(n_threads)));
    column_panels x(rows, n, space);
    row_split     split(rows.n_row(), n_threads, N_CHUNK);
    const auto    every = [](int, int32_t) { return true; };
#pragma omp parallel num_threads(n_threads)
    {
        const int ith = omp_get_thread_num();
        row_tile  tile(rows, space + x_size + tile_size * size_t(ith));
#pragma omp for schedule(dynamic)
        for (int c = 0; c < n; ++c) {
            x.set(c, column(op->src[1], c0 + c));
        }
        while (const row_split::rows part = split.take(ith)) {
            int32_t ids[N_CHUNK];
            std::iota(ids, ids + (part.end - part.begin), int32_t(part.begin));
            const auto set = [&](int c, int k, float product) { column(op, c0 + c)[part.begin + k] = product; };
            multiply_rows(ids, int(part.end - part.begin), x, tile, every, set);
        }
    }
}

void dense_run(const ggml_tensor * op, int n_threads, const sparse_kernels & kernels, ffn_workspace & ws) {
    const row_reader rows(find_matrix(op->src[0]), kernels);
    const int64_t    n = op->src[1]->ne[1], n_at_once = columns_at_once(rows.n_col());
    if (n == 0) { // the last layer of a batch whose logits nobody wants
        return;
    }
    if (n <= N_FEW) {
        run_dots(op, rows, n_threads, ws);
        return;
    }
    for (int64_t c0 = 0; c0 < n; c0 += n_at_once) {
        run_tiles(op, rows, c0, int(std::min(n - c0, n_at_once)), n_threads, ws);
    }
}

} // namespace ggml_sparse
