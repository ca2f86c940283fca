#pragma once

// The contract of the kernels for several columns: products of a tile of 16 weight rows with
// a panel of columns, and sums of rows that differ from column to column. gemm.cpp is compiled
// once per instruction set, like kernels.cpp.
//
// unpack    Rows of any matrix, anywhere in memory, into a tile of tile_size bytes: planes
//           of quants and their scales, or F32.
// multiply  y[i][r] = row r . column ids[i], in an order that depends on n alone:
//   quantised types   16 lanes; block b of 32 adds to lane b % 16, in ascending order,
//                  [fma(min, sum of x,] fma(quants . x, scale of row * scale of x, lane)[)];
//                  lanes are added l + l+8, then +4, +2, +1
//   float types    the order of dot_float in kernels.cpp, so the bits are those of a dot

#include "ggml-sparse.h"

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

constexpr int TILE_ROWS     = 16;
constexpr int PANEL_COLUMNS = 64;

struct gemm_panel {
    int                   n;     // columns, <= PANEL_COLUMNS
    const int8_t *        q;     // [n_block][n][32]
    const float *         d;     // [n_block][n] scales
    const float *         sum;   // [n_block][n] d * sum(q)
    const int32_t *       start; // [n_block][n][n_start] -offset * sum(q), as the tile kernels' table says
    const float * const * x;     // [n] F32 columns, instead of all the above for float types
};

// n is a multiple of the type's block. Tiles are 64-byte aligned.
struct tile_kernels {
    int offset;  // what makes quants unsigned
    int n_start; // sums per block and column in a panel's `start`: 0 of float types, 2 = of 16 quants each
    size_t (*tile_size)(int64_t n);
    // rows [16]; `ahead` [16] are prefetched meanwhile.
    void (*unpack)(int64_t n, const uint8_t * const * rows, const uint8_t * const * ahead, void * tile);
    // ids [n_id] columns of the panel, null: the first n_id; y [n_id][16].
    void (*multiply)(int64_t n, const void * tile, const gemm_panel & x, const uint8_t * ids, int n_id, float * y);
};

// Rows of F32, 64 columns wide, and which of them to add to a sum.
constexpr int SLICE_COLUMNS = 64;

struct row_entry {
    uint32_t row;
    float    h;
};

struct batch_kernels {
    const tile_kernels * tiles; // by sparse_type_index
    // acc[i] = fma(e.h, rows[e.row][i], acc[i]) for the n entries in order; rows [..][64], acc [64]
    void (*add_rows)(const float * rows, const row_entry * entries, int64_t n, float * acc);
};

extern const batch_kernels batch_kernels_generic;
extern const batch_kernels batch_kernels_avx2;
extern const batch_kernels batch_kernels_avxvnni;
extern const batch_kernels batch_kernels_avx512;

} // namespace ggml_sparse
