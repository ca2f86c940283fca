#pragma once

// Columns laid out for the tile kernels (cpu/gemm.h), and tiles of rows to multiply them with.

#include "cpu/gemm.h"
#include "rows.h"

#include <algorithm>

namespace ggml_sparse {

// Columns of n_k floats, rounded as a dot against `type` rounds them, in panels of 64.
class column_panels {
  public:
    column_panels() = default;
    // `space`: size() bytes, 64-byte aligned; null to learn the size.
    column_panels(const row_reader & rows, int n_column, uint8_t * space);

    size_t size() const { return size_; }
    int    n_column() const { return n_column_; }
    int    n_panel() const { return (n_column_ + PANEL_COLUMNS - 1) / PANEL_COLUMNS; }

    // Threads may set different columns at once. x must stay where it is when the type is a float type.
    void       set(int c, const float * x);
    gemm_panel panel(int i) const;

  private:
    struct planes { // of one panel
        int8_t *  q;
        float *   d;
        float *   sum;
        int32_t * start;
    };
    int    width(int i) const;
    size_t panel_size(int n) const;
    planes planes_of(int i) const;

    const tile_kernels * tiles_    = nullptr;
    int64_t              n_block_  = 0;
    int                  n_column_ = 0;
    uint8_t *            space_    = nullptr;
    size_t               size_     = 0;
};

// Sixteen rows of a matrix, unpacked.
class row_tile {
  public:
    row_tile() = default;
    row_tile(const row_reader & rows, void * space) : rows_(&rows), space_(space) {} // space: size(rows) bytes

    static size_t size(const row_reader & rows) { return rows.tiles().tile_size(rows.n_col()); }

    // 1 <= n <= 16 rows ids[0 .. n - 1]; n_ahead more of ids are prefetched meanwhile.
    void load(const int32_t * ids, int n, int n_ahead);
    // y[i][r] = row r . column ids[i] of the panel; ids null: the first n_id. y [n_id][16], rows
    // past the loaded ones are undefined.
    void multiply(const gemm_panel & x, const uint8_t * ids, int n_id, float * y) const {
        rows_->tiles().multiply(rows_->n_col(), space_, x, ids, n_id, y);
    }

  private:
    const row_reader * rows_  = nullptr;
    void *             space_ = nullptr;
};

// Every row ids[0 .. n - 1] times the columns of x: calls f(c, i, row ids[i] . column c) where
// wanted(c, ids[i]). Only columns that want one of sixteen neighbours in the list are computed.
template <typename W, typename F>
void multiply_rows(const int32_t * ids, int n, const column_panels & x, row_tile & tile, W && wanted, F && f) {
    for (int t = 0; t < n; t += TILE_ROWS) {
        const int m = std::min(TILE_ROWS, n - t);
        tile.load(ids + t, m, std::min(TILE_ROWS, n - t - m));
        for (int p = 0; p < x.n_panel(); ++p) {
            const gemm_panel panel = x.panel(p);
            const int        c0    = p * PANEL_COLUMNS;
            uint8_t          some[PANEL_COLUMNS];
            int              n_some = 0;
            for (int c = 0; c < panel.n; ++c) {
                some[n_some] = static_cast<uint8_t>(c);
                n_some += std::any_of(ids + t, ids + t + m, [&](int32_t id) { return wanted(c0 + c, id); });
            }
            alignas(64) float y[PANEL_COLUMNS * TILE_ROWS];
            tile.multiply(panel, n_some == panel.n ? nullptr : some, n_some, y);
            for (int k = 0; k < n_some; ++k) {
                for (int r = 0; r < m; ++r) {
                    if (wanted(c0 + some[k], ids[t + r])) {
                        f(c0 + some[k], t + r, y[k * TILE_ROWS + r]);
                    }
                }
            }
        }
    }
}

// Columns to keep in L2 together: a multiple of a panel, at most MAX_AT_ONCE.
constexpr int MAX_AT_ONCE = 8 * PANEL_COLUMNS;
int           columns_at_once(int64_t n_k);

} // namespace ggml_sparse
