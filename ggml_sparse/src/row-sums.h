#pragma once

// Sums of rows for many columns: y[c] = sum of h[c][j] * rows[j], of the rows where h is not 0.
//
// Which rows a column needs is listed first. Then y is made in units of 256 elements: a tile
// of 128 rows of one piece is unpacked, and added to every column that lists some of them,
// with 64 sums in registers.

#include "carver.h"
#include "cpu/gemm.h"
#include "rows.h"

#include <atomic>

namespace ggml_sparse {

class row_sums {
  public:
    // A piece (neurons.h) adds its rows in ascending order, one FMA per element; pieces are added as by reduce_pieces.
    // every_row: also where h is 0.
    row_sums(const row_reader & rows, const batch_kernels & kernels, bool every_row);

    void          lay_out(carver & c, int n_column);
    static size_t scratch_size(int n_column); // bytes, per thread

    // Phase 0, one thread.
    void start();
    // Phase 1: h [n_row] of column c. Threads list different columns. Returns how many rows it needs.
    uint64_t list(int c, const float * h);
    // Phase 2: units 0 .. n_unit() - 1, each 256 elements of y[0 .. n_column - 1].
    int64_t n_unit() const { return (rows_.n_col() + WIDTH - 1) / WIDTH; }
    void    sum(int64_t unit, int n_column, float * const * y, uint8_t * scratch) const;

  private:
    static constexpr int64_t WIDTH   = 256; // a multiple of every type's block
    static constexpr int64_t N_SLICE = WIDTH / SLICE_COLUMNS;
    static constexpr int64_t N_ROW   = 128; // of a tile: whole stretches

    int64_t row_of(int64_t tile, int64_t r) const; // may lie behind the last one
    bool    is_used(int64_t j) const { return j < rows_.n_row() && used_[j].load(std::memory_order_relaxed); }
    void    prefetch(int64_t tile, int64_t e0, int64_t e1) const;
    bool    unpack(int64_t tile, int64_t e0, int64_t e1, float * unpacked) const;
    void    add_tile(int64_t tile, int n_column, const float * unpacked, float * acc) const;

    const row_reader &     rows_;
    const batch_kernels &  kernels_;
    const bool             every_row_;
    const int64_t          stretch_, n_per_piece_, n_tile_; // n_per_piece_: tiles
    row_entry *            entries_ = nullptr;              // [n_column][n_row], a column's in order of its tiles
    uint32_t *             starts_  = nullptr;              // [n_column][n_tile + 1], where a tile's entries begin
    std::atomic<uint8_t> * used_    = nullptr;              // [n_row], does any column list it?
};

} // namespace ggml_sparse
