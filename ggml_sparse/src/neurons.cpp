#include "neurons.h"

#include <algorithm>
#include <utility>

namespace ggml_sparse {

static constexpr int     N_AHEAD     = 2;   // rows prefetched ahead of the dot or axpy
static constexpr int64_t N_CHUNK_MAX = 512; // neurons per unit of work

bool first_is_up(const ggml_sparse_ffn & ffn) { // reglu: relu(gate) decides
    return ffn.activation == GGML_SPARSE_RELU || (ffn.activation == GGML_SPARSE_DRELU && ffn.first_branch == 1);
}

branches branches_of(const ggml_sparse_ffn & ffn, const sparse_kernels & kernels) {
    branches b;
    b.has_second       = ffn.activation != GGML_SPARSE_RELU;
    b.relu_second      = ffn.activation == GGML_SPARSE_DRELU;
    b.every_row        = ffn.mode == GGML_SPARSE_MODE_DENSE;
    const bool swapped = first_is_up(ffn);
    b.first            = row_reader(swapped ? ffn.up : ffn.gate, kernels);
    if (b.has_second) {
        b.second = row_reader(swapped ? ffn.gate : ffn.up, kernels);
    }
    return b;
}

// Neurons in increasing order, with what is needed to fetch their rows ahead of time.
struct row_list {
    int     n = 0;
    int32_t ids[N_CHUNK_MAX + 1]; // list_rows writes one entry behind the last

    // Calls f(j, ahead): `ahead` is the row to bring to L2 meanwhile.
    template <typename F> void each(const row_reader & rows, F && f) const {
        for (int k = 0; k < std::min(N_AHEAD, n); ++k) {
            rows.prefetch(ids[k]);
        }
        for (int k = 0; k < n; ++k) {
            f(ids[k], ids[std::min(k + N_AHEAD, n - 1)]);
        }
    }
};

// Of the neurons at(0) .. at(n_id - 1), those for which `wanted(c, j)` holds in any column.
template <typename A, typename F> static void list_rows(row_list & list, int64_t n_id, A && at, int n, F && wanted) {
    for (int64_t k = 0; k < n_id; ++k) {
        const int64_t j   = at(k);
        bool          any = wanted(0, j); // mostly there is one column: no branch, but a store that may be overwritten
        for (int c = 1; c < n; ++c) {
            any = any || wanted(c, j);
        }
        list.ids[list.n] = static_cast<int32_t>(j);
        list.n += any;
    }
}
template <typename F> static void list_rows(row_list & list, int64_t j0, int64_t j1, int n, F && wanted) {
    list_rows(list, j1 - j0, [=](int64_t k) { return j0 + k; }, n, wanted);
}

// Leaves the selected neurons of j0 .. j1 - 1 in `list`.
static void first_branch(const branches & b, const gate_up_columns & cols, int64_t j0, int64_t j1, row_list & list,
                         neuron_counts & counts) {
    const int     n        = cols.first.n;
    const int64_t n_ff     = b.first.n_row();
    auto          selected = [&](int c, int64_t j) { return !cols.mask || cols.mask[c * cols.mask_stride + j]; };
    for (int c = 0; c < n; ++c) {
        std::fill(cols.h + c * n_ff + j0, cols.h + c * n_ff + j1, 0.0f);
    }
    list_rows(list, j0, j1, n, selected);
    list.each(b.first, [&](int64_t j, int64_t ahead) {
        for (int c = 0; c < n; ++c) {
            if (selected(c, j)) {
                cols.h[c * n_ff + j] = relu(b.first.dot(j, cols.first.x[c], std::exchange(ahead, j)));
                counts.first++;
            }
        }
    });
}

// Of the neurons in `list`, leaves those that need their second branch.
static void second_branch(const branches & b, const gate_up_columns & cols, row_list & list, neuron_counts & counts) {
    const int      n      = cols.first.n;
    const int64_t  n_ff   = b.first.n_row();
    auto           wanted = [&](int c, int64_t j) { return b.every_row || cols.h[c * n_ff + j] != 0.0f; };
    const row_list first  = list;
    list.n                = 0;
    list_rows(list, first.n, [&](int64_t k) { return first.ids[k]; }, n, wanted);
    list.each(b.second, [&](int64_t j, int64_t ahead) {
        for (int c = 0; c < n; ++c) {
            if (wanted(c, j)) {
                const float second = b.second.dot(j, cols.second.x[c], std::exchange(ahead, j));
                float &     h      = cols.h[c * n_ff + j];
                h                  = h == 0.0f ? 0.0f : h * (b.relu_second ? relu(second) : second);
                counts.second++;
            }
        }
    });
}

static void count_active(const gate_up_columns & cols, int64_t n_ff, const row_list & list, neuron_counts & counts) {
    for (int c = 0; c < cols.first.n; ++c) {
        for (int k = 0; k < list.n; ++k) {
            const int32_t j      = list.ids[k];
            const bool    active = cols.h[c * n_ff + j] != 0.0f;
            counts.active += active;
            if (cols.profile) {
                cols.profile[j] += active;
            }
        }
    }
}

neuron_counts gate_up(const branches & b, const gate_up_columns & cols, work_share work) {
    const int64_t n_ff    = b.first.n_row();
    const int64_t n_chunk = std::clamp<int64_t>(n_ff / 32, N_GROUP, N_CHUNK_MAX); // units enough to balance threads
    neuron_counts counts;
    for (int64_t u; (u = work.take((n_ff + n_chunk - 1) / n_chunk)) >= 0;) {
        const int64_t j0 = u * n_chunk, j1 = std::min(n_ff, j0 + n_chunk);
        row_list      list;
        first_branch(b, cols, j0, j1, list, counts);
        if (b.has_second) {
            second_branch(b, cols, list, counts);
        }
        count_active(cols, n_ff, list, counts);
    }
    return counts;
}

// Calls f(list) for the wanted neurons of one piece, in ascending order, a list at a time.
template <typename W, typename F> static void each_list(int64_t n_ff, int piece, int n, W && wanted, F && f) {
    row_list list;
    for (int64_t j0 = piece * N_GROUP; j0 < n_ff; j0 += N_PIECE * N_GROUP) {
        list_rows(list, j0, std::min(n_ff, j0 + N_GROUP), n, wanted);
        if (list.n + N_GROUP > N_CHUNK_MAX - 1) { // list_rows writes one entry behind the last
            f(list);
            list.n = 0;
        }
    }
    f(list);
}

uint64_t down_piece(const row_reader & down_t, bool every_row, int piece, int n, const float * h, float * const * acc) {
    const int64_t n_ff   = down_t.n_row();
    uint64_t      n_rows = 0;
    auto          wanted = [&](int c, int64_t j) { return every_row || h[c * n_ff + j] != 0.0f; };
    for (int c = 0; c < n; ++c) {
        std::fill(acc[c], acc[c] + down_t.n_col(), 0.0f);
    }
    each_list(n_ff, piece, n, wanted, [&](const row_list & list) {
        if (n == 1) {
            down_t.axpy_by_id(list.n, list.ids, h, 0, down_t.n_col(), acc[0]);
            n_rows += static_cast<uint64_t>(list.n);
            return;
        }
        list.each(down_t, [&](int64_t j, int64_t ahead) {
            down_t.prefetch(ahead);
            float   hs[N_COLUMN_MAX];
            float * ys[N_COLUMN_MAX];
            int     m = 0;
            for (int c = 0; c < n; ++c) {
                if (wanted(c, j)) {
                    hs[m]   = h[c * n_ff + j];
                    ys[m++] = acc[c];
                }
            }
            down_t.axpy_columns(j, m, hs, ys);
            n_rows += static_cast<uint64_t>(m);
        });
    });
    return n_rows;
}

void down_slice(const row_reader & down_t, bool every_row, const float * h, int64_t c0, int64_t c1, float * y) {
    auto wanted = [&](int, int64_t j) { return every_row || h[j] != 0.0f; };
    std::fill(y, y + (c1 - c0), 0.0f);
    for (int piece = 0; piece < N_PIECE; ++piece) {
        float acc[1024] = {};
        each_list(down_t.n_row(), piece, 1, wanted, [&](const row_list & list) { down_t.axpy_by_id(list.n, list.ids, h, c0, c1, acc); });
        for (int64_t c = 0; c < c1 - c0; ++c) {
            y[c] += acc[c];
        }
    }
}

} // namespace ggml_sparse
