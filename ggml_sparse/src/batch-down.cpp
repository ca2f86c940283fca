#include "batch-down.h"

#include "neurons.h"

#include <algorithm>
#include <cstring>

namespace ggml_sparse {

static int64_t tiles_per_piece(int64_t n_ff, int64_t n_row) {
    const int64_t stride = N_PIECE * n_row;
    return (n_ff + stride - 1) / stride;
}

batch_down::batch_down(const row_reader & down_t, const batch_kernels & kernels, bool every_row)
    : down_t_(down_t), kernels_(kernels), every_row_(every_row), n_per_piece_(tiles_per_piece(down_t.n_row(), N_ROW)),
      n_tile_(N_PIECE * n_per_piece_) {}

void batch_down::lay_out(carver & c, int n_column) {
    entries_ = c.take<row_entry>(static_cast<size_t>(n_column * down_t_.n_row()));
    starts_  = c.take<uint32_t>(static_cast<size_t>(n_column * (n_tile_ + 1)));
}

size_t batch_down::scratch_size(int n_column) { return static_cast<size_t>((N_ROW + n_column) * WIDTH) * sizeof(float); }

// Tiles are ordered by piece; those of one piece take eight of its groups each.
int64_t batch_down::neuron(int64_t tile, int64_t row) const {
    const int64_t piece = tile / n_per_piece_, group = tile % n_per_piece_ * (N_ROW / N_GROUP) + row / N_GROUP;
    return (group * N_PIECE + piece) * N_GROUP + row % N_GROUP;
}

uint64_t batch_down::list(int c, const float * h) {
    row_entry * e     = entries_ + c * down_t_.n_row();
    uint32_t *  start = starts_ + c * (n_tile_ + 1);
    uint32_t    n     = 0;
    for (int64_t t = 0; t < n_tile_; ++t) {
        start[t] = n;
        for (int64_t row = 0; row < N_ROW; row += N_GROUP) {
            const int64_t j0 = neuron(t, row), n_here = std::clamp<int64_t>(down_t_.n_row() - j0, 0, N_GROUP);
            for (int64_t r = 0; r < n_here; ++r) { // written first, counted if wanted
                e[n] = {static_cast<uint32_t>(row + r), h[j0 + r]};
                n += every_row_ || h[j0 + r] != 0.0f;
            }
        }
    }
    start[n_tile_] = n;
    return n;
}

const uint8_t * batch_down::part(int64_t j, int64_t e) const { return down_t_.row(j) + ggml_row_size(down_t_.type().type, e); }

void batch_down::prefetch(int64_t tile, const uint8_t * used, int64_t e0, int64_t e1) const {
    for (int64_t r = 0; tile < n_tile_ && r < N_ROW; ++r) {
        const int64_t j = neuron(tile, r);
        if (j >= down_t_.n_row() || !used[j]) {
            continue;
        }
        for (const uint8_t * p = part(j, e0); p < part(j, e1); p += 64) {
            __builtin_prefetch(p, 0, 2);
        }
    }
}

// rows: [N_SLICE][N_ROW][64]. False when no row is used.
bool batch_down::unpack(int64_t tile, const uint8_t * used, int64_t e0, int64_t e1, float * rows) const {
    bool any = false;
    for (int64_t r = 0; r < N_ROW; ++r) {
        const int64_t j = neuron(tile, r);
        if (j >= down_t_.n_row() || !used[j]) {
            continue;
        }
        float w[WIDTH] = {};
        down_t_.axpy(j, 1.0f, e0, e1, w);
        for (int64_t s = 0; s < N_SLICE; ++s) {
            std::memcpy(rows + (s * N_ROW + r) * SLICE_COLUMNS, w + s * SLICE_COLUMNS, SLICE_COLUMNS * sizeof(float));
        }
        any = true;
    }
    return any;
}

// acc: [N_SLICE][n_column][64].
void batch_down::add_tile(int64_t tile, int n_column, const float * rows, float * acc) const {
    for (int64_t s = 0; s < N_SLICE; ++s) {
        for (int c = 0; c < n_column; ++c, acc += SLICE_COLUMNS) {
            const uint32_t * start = starts_ + c * (n_tile_ + 1) + tile;
            kernels_.add_rows(rows + s * N_ROW * SLICE_COLUMNS, entries_ + c * down_t_.n_row() + start[0], start[1] - start[0], acc);
        }
    }
}

static void add_piece(const float * acc, int n_column, int64_t n, float * const * y, int64_t e0) {
    for (int64_t i0 = 0; i0 < n; i0 += SLICE_COLUMNS) {
        for (int c = 0; c < n_column; ++c, acc += SLICE_COLUMNS) {
            float * dst = y[c] + e0 + i0;
            for (int64_t i = 0; i < std::min<int64_t>(SLICE_COLUMNS, n - i0); ++i) {
                dst[i] += acc[i];
            }
        }
    }
}

void batch_down::sum(int64_t unit, int n_column, const uint8_t * used, float * const * y, uint8_t * scratch) const {
    const int64_t e0 = unit * WIDTH, e1 = std::min(down_t_.n_col(), e0 + WIDTH);
    float *       rows = reinterpret_cast<float *>(scratch);
    float *       acc  = rows + N_ROW * WIDTH;
    for (int c = 0; c < n_column; ++c) {
        std::fill(y[c] + e0, y[c] + e1, 0.0f);
    }
    for (int64_t tile = 0; tile < n_tile_; ++tile) {
        if (tile % n_per_piece_ == 0) {
            std::fill(acc, acc + n_column * WIDTH, 0.0f);
        }
        prefetch(tile + 1, used, e0, e1);
        if (unpack(tile, used, e0, e1, rows)) {
            add_tile(tile, n_column, rows, acc);
        }
        if ((tile + 1) % n_per_piece_ == 0) {
            add_piece(acc, n_column, e1 - e0, y, e0);
        }
    }
}

} // namespace ggml_sparse
