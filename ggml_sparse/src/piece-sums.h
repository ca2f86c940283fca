#pragma once

// Sums of q4_0 rows for many columns, as row-sums.h has them for other types: y[c] = sum of h[c][j] * rows[j].
//
// Groups of sixteen rows differ from column to column, so nothing is unpacked for all. Instead the rows of one piece,
// 512 elements wide, stay in L2 while the columns pass.

#include "carver.h"
#include "rows.h"

namespace ggml_sparse {

class piece_sums {
  public:
    // A piece (neurons.h) takes its rows where h is not 0 by sixteen (cpu/group-sum.h), in
    // ascending order; pieces are added as by reduce_pieces (neurons.h). every_row: reads the others, too.
    piece_sums(const row_reader & rows, bool every_row);

    void lay_out(carver & c, int n_column);

    // Phase 1: h [n_row] of column c. Threads list different columns. Returns how many rows it needs.
    uint64_t list(int c, const float * h);
    // Phase 2: units 0 .. n_unit(n_column) - 1, each some elements of some of y[0 .. n_column - 1].
    int64_t n_unit(int n_column) const;
    void    sum(int64_t unit, int n_column, float * const * y, uint8_t * scratch) const;

    static size_t scratch_size(); // bytes, per thread

  private:
    int64_t stride() const { return rows_.n_row() + 1; } // list() writes one entry behind the last

    void add(int c, int piece, int64_t e0, int64_t e1, float * sum) const;

    const row_reader & rows_;
    const bool         every_row_;
    int32_t *          ids_    = nullptr; // [n_column][stride], by piece
    float *            h_      = nullptr; // [n_column][stride], theirs
    int32_t *          starts_ = nullptr; // [n_column][N_PIECE + 1], where a piece begins
};

} // namespace ggml_sparse
