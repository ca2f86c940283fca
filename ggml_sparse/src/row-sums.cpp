#include "row-sums.h"

#include "neurons.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace ggml_sparse {

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

row_sums::row_sums(const row_reader & rows, const batch_kernels & kernels, bool every_row)
    : rows_(rows), kernels_(kernels), every_row_(every_row), stretch_(stretch_of(rows.n_row())),
      n_per_piece_(divide_up(rows.n_row(), N_PIECE * N_ROW)), n_tile_(N_PIECE * n_per_piece_) {}

void row_sums::lay_out(carver & c, int n_column) {
    entries_ = c.take<row_entry>(static_cast<size_t>(n_column * rows_.n_row()));
    starts_  = c.take<uint32_t>(static_cast<size_t>(n_column * (n_tile_ + 1)));
    used_    = c.take<std::atomic<uint8_t>>(static_cast<size_t>(rows_.n_row()));
}

size_t row_sums::scratch_size(int n_column) { return static_cast<size_t>((N_ROW + 2 * n_column) * WIDTH) * sizeof(float); }

void row_sums::start() {
    for (int64_t j = 0; j < rows_.n_row(); ++j) {
        new (used_ + j) std::atomic<uint8_t>(0);
    }
}

// Tiles are ordered by piece; those of one piece take some of its stretches each.
int64_t row_sums::row_of(int64_t tile, int64_t r) const {
    const int64_t piece = tile / n_per_piece_, k = tile % n_per_piece_ * (N_ROW / stretch_) + r / stretch_;
    return (k * N_PIECE + piece) * stretch_ + r % stretch_;
}

uint64_t row_sums::list(int c, const float * h) {
    row_entry * e     = entries_ + c * rows_.n_row();
    uint32_t *  start = starts_ + c * (n_tile_ + 1);
    uint32_t    n     = 0;
    for (int64_t t = 0; t < n_tile_; ++t) {
        start[t] = n;
        for (int64_t r0 = 0; r0 < N_ROW; r0 += stretch_) {
            const int64_t j0 = row_of(t, r0), n_here = std::clamp<int64_t>(rows_.n_row() - j0, 0, stretch_);
            for (int64_t r = 0; r < n_here; ++r) {
                const bool wanted = every_row_ || h[j0 + r] != 0.0f;
                e[n]              = {static_cast<uint32_t>(r0 + r), h[j0 + r]}; // written first, counted if wanted
                n += wanted;
                if (wanted && !is_used(j0 + r)) {
                    used_[j0 + r].store(1, std::memory_order_relaxed);
                }
            }
        }
    }
    start[n_tile_] = n;
    return n;
}

void row_sums::prefetch(int64_t tile, int64_t e0, int64_t e1) const {
    for (int64_t r = 0; tile < n_tile_ && r < N_ROW; ++r) {
        if (is_used(row_of(tile, r))) {
            rows_.prefetch(row_of(tile, r), e0, e1);
        }
    }
}

// unpacked: [N_SLICE][N_ROW][64]. False when no row is used.
bool row_sums::unpack(int64_t tile, int64_t e0, int64_t e1, float * unpacked) const {
    bool any = false;
    for (int64_t r = 0; r < N_ROW; ++r) {
        const int32_t j = static_cast<int32_t>(row_of(tile, r));
        if (!is_used(j)) {
            continue;
        }
        float       w[WIDTH] = {};
        const float one      = 1;
        rows_.axpy_ids(1, &j, &one, e0, e1, w);
        for (int64_t s = 0; s < N_SLICE; ++s) {
            std::memcpy(unpacked + (s * N_ROW + r) * SLICE_COLUMNS, w + s * SLICE_COLUMNS, SLICE_COLUMNS * sizeof(float));
        }
        any = true;
    }
    return any;
}

// acc: [N_SLICE][n_column][64].
void row_sums::add_tile(int64_t tile, int n_column, const float * unpacked, float * acc) const {
    for (int64_t s = 0; s < N_SLICE; ++s) {
        for (int c = 0; c < n_column; ++c, acc += SLICE_COLUMNS) {
            const uint32_t * start = starts_ + c * (n_tile_ + 1) + tile;
            kernels_.add_rows(unpacked + s * N_ROW * SLICE_COLUMNS, entries_ + c * rows_.n_row() + start[0], start[1] - start[0], acc);
        }
    }
}

static void add_quarter(const float * acc, int n_column, int64_t n, float * const * y, int64_t e0) {
    for (int64_t i0 = 0; i0 < n; i0 += SLICE_COLUMNS) {
        for (int c = 0; c < n_column; ++c, acc += SLICE_COLUMNS) {
            float * dst = y[c] + e0 + i0;
            for (int64_t i = 0; i < std::min<int64_t>(SLICE_COLUMNS, n - i0); ++i) {
                dst[i] += acc[i];
            }
        }
    }
}

void row_sums::sum(int64_t unit, int n_column, float * const * y, uint8_t * scratch) const {
    const int64_t e0 = unit * WIDTH, e1 = std::min(rows_.n_col(), e0 + WIDTH);
    float *       unpacked = reinterpret_cast<float *>(scratch);
    float *       acc      = unpacked + N_ROW * WIDTH; // of a piece
    const int64_t n_acc    = n_column * WIDTH;
    float *       quarter  = acc + n_acc;
    for (int c = 0; c < n_column; ++c) {
        std::fill(y[c] + e0, y[c] + e1, 0.0f);
    }
    for (int64_t tile = 0; tile < n_tile_; ++tile) {
        const int64_t piece = tile / n_per_piece_;
        float *       into  = piece % N_QUARTER == 0 ? quarter : acc;
        if (tile % n_per_piece_ == 0) {
            std::fill(into, into + n_acc, 0.0f);
        }
        prefetch(tile + 1, e0, e1);
        if (unpack(tile, e0, e1, unpacked)) {
            add_tile(tile, n_column, unpacked, into);
        }
        if ((tile + 1) % n_per_piece_ != 0) {
            continue;
        }
        for (int64_t i = 0; into == acc && i < n_acc; ++i) {
            quarter[i] += acc[i];
        }
        if ((piece + 1) % N_QUARTER == 0) {
            add_quarter(quarter, n_column, e1 - e0, y, e0);
        }
    }
}

} // namespace ggml_sparse
