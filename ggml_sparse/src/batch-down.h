#pragma once

// The down product for many columns: y[c] = sum of h[c][j] * down_t[j], in the order of ffn.h.
//
// Which rows a column needs is listed first. Then y is made in units of 256 elements: a tile
// of 128 rows of one piece is unpacked, and added to every column that lists some of them,
// with 64 sums in registers.

#include "carver.h"
#include "cpu/gemm.h"
#include "rows.h"

namespace ggml_sparse {

class batch_down {
  public:
    batch_down(const row_reader & down_t, const batch_kernels & kernels, bool every_row);

    void          lay_out(carver & c, int n_column);
    static size_t scratch_size(int n_column); // bytes, per thread

    // Phase 1: h [n_ff] of column c. Threads list different columns. Returns how many rows it needs.
    uint64_t list(int c, const float * h);

    // Phase 2: units 0 .. n_unit() - 1, each 256 elements of y[0 .. n_column - 1].
    // used [n_ff]: is the row needed by any column?
    int64_t n_unit() const { return (down_t_.n_col() + WIDTH - 1) / WIDTH; }
    void    sum(int64_t unit, int n_column, const uint8_t * used, float * const * y, uint8_t * scratch) const;

  private:
    static constexpr int64_t WIDTH   = 256; // a multiple of every type's block
    static constexpr int64_t N_SLICE = WIDTH / SLICE_COLUMNS;
    static constexpr int64_t N_ROW   = 128; // of a tile: eight groups of sixteen neighbours

    int64_t         neuron(int64_t tile, int64_t row) const; // may lie behind the last one
    const uint8_t * part(int64_t j, int64_t e) const;
    void            prefetch(int64_t tile, const uint8_t * used, int64_t e0, int64_t e1) const;
    bool            unpack(int64_t tile, const uint8_t * used, int64_t e0, int64_t e1, float * rows) const;
    void            add_tile(int64_t tile, int n_column, const float * rows, float * acc) const;

    const row_reader &    down_t_;
    const batch_kernels & kernels_;
    const bool            every_row_;
    const int64_t         n_per_piece_, n_tile_; // tiles
    row_entry *           entries_ = nullptr;    // [n_column][n_ff], a column's in order of its tiles
    uint32_t *            starts_  = nullptr;    // [n_column][n_tile + 1], where a tile's entries begin
};

} // namespace ggml_sparse
