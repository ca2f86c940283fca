#include "panels.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace ggml_sparse {

static constexpr int64_t N_QUANT  = 32;      // per block
static constexpr int64_t L2_BYTES = 1 << 20; // of columns; half of what a core has

int columns_at_once(int64_t n_k) {
    const int64_t n = L2_BYTES / std::max<int64_t>(n_k, 1) / PANEL_COLUMNS * PANEL_COLUMNS;
    return static_cast<int>(std::clamp<int64_t>(n, PANEL_COLUMNS, MAX_AT_ONCE));
}

static size_t round_up_64(size_t n) { return (n + 63) / 64 * 64; }

column_panels::column_panels(const row_reader & rows, int n_column, uint8_t * space)
    : tiles_(&rows.tiles()), n_block_(rows.n_col() / N_QUANT), n_column_(n_column), space_(space) {
    for (int i = 0; i < n_panel(); ++i) {
        size_ += panel_size(width(i));
    }
}

int column_panels::width(int i) const { return std::min(PANEL_COLUMNS, n_column_ - i * PANEL_COLUMNS); }

size_t column_panels::panel_size(int n) const {
    if (tiles_->n_start == 0) {
        return PANEL_COLUMNS * sizeof(float *);
    }
    const size_t n_pair = static_cast<size_t>(n_block_ * n); // of a block and a column
    return round_up_64(n_pair * (N_QUANT + 2 * sizeof(float) + static_cast<size_t>(tiles_->n_start) * sizeof(int32_t)));
}

column_panels::planes column_panels::planes_of(int i) const {
    const size_t n_pair = static_cast<size_t>(n_block_ * width(i));
    uint8_t *    at     = space_ + static_cast<size_t>(i) * panel_size(PANEL_COLUMNS);
    planes       p;
    p.q     = reinterpret_cast<int8_t *>(at);
    p.d     = reinterpret_cast<float *>(p.q + n_pair * N_QUANT);
    p.sum   = p.d + n_pair;
    p.start = reinterpret_cast<int32_t *>(p.sum + n_pair);
    return p;
}

gemm_panel column_panels::panel(int i) const {
    if (tiles_->n_start == 0) {
        const auto * x = reinterpret_cast<const float * const *>(space_ + static_cast<size_t>(i) * panel_size(PANEL_COLUMNS));
        return {width(i), nullptr, nullptr, nullptr, nullptr, x};
    }
    const planes p = planes_of(i);
    return {width(i), p.q, p.d, p.sum, p.start, nullptr};
}

// ggml's q8_0 block, declared here because ggml-common.h is not installed.
struct q8_0 {
    ggml_fp16_t d;
    int8_t      qs[N_QUANT];
};

void column_panels::set(int c, const float * x) {
    const int i = c / PANEL_COLUMNS, n = width(i), k = c % PANEL_COLUMNS;
    if (tiles_->n_start == 0) {
        reinterpret_cast<const float **>(space_ + static_cast<size_t>(i) * panel_size(PANEL_COLUMNS))[k] = x;
        return;
    }
    const planes p     = planes_of(i);
    const auto   round = ggml_get_type_traits_cpu(GGML_TYPE_Q8_0)->from_float;
    for (int64_t b = 0; b < n_block_; ++b) {
        q8_0 block;
        round(x + b * N_QUANT, &block, N_QUANT);
        const int64_t at = b * n + k;
        std::memcpy(p.q + at * N_QUANT, block.qs, N_QUANT);
        const int half[2] = {std::accumulate(block.qs, block.qs + N_QUANT / 2, 0),
                             std::accumulate(block.qs + N_QUANT / 2, block.qs + N_QUANT, 0)};
        p.d[at]           = ggml_fp16_to_fp32(block.d);
        p.sum[at]         = p.d[at] * static_cast<float>(half[0] + half[1]); // exact
        if (tiles_->n_start == 2) {
            p.start[2 * at]     = -tiles_->offset * half[0];
            p.start[2 * at + 1] = -tiles_->offset * half[1];
        } else {
            p.start[at] = -tiles_->offset * (half[0] + half[1]);
        }
    }
}

void row_tile::load(const int32_t * ids, int n, int n_ahead) {
    const uint8_t * rows[TILE_ROWS];
    const uint8_t * ahead[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; ++r) {
        rows[r]  = rows_->row(ids[std::min(r, n - 1)]);
        ahead[r] = r < n_ahead ? rows_->row(ids[n + r]) : rows[r];
    }
    rows_->tiles().unpack(rows_->n_col(), rows, ahead, space_);
}

} // namespace ggml_sparse
