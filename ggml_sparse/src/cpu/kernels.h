#pragma once

// The contract of the CPU kernels. kernels.cpp is compiled once per instruction set, each
// object exports one table; dispatch.cpp picks.
//
// dot   w . x over n elements; w is one row, x is prepared for its type (types.h x_prepare).
//       Sums in an order that depends on n alone, so that a row's bits never depend on
//       its neighbours. Accumulates in F32, products of quants in int32. `ahead` is a row
//       that is wanted soon (any readable row will do): it is prefetched line by line.
// axpy  y[i] = fma(h[r], w[r][i], y[i]) for i < n, r = 0 .. n_row - 1 in turn (1 to AXPY_ROWS
//       rows), w[r][i] being the dequantised F32: one rounding per element and row (GENERIC
//       rounds once to double first), whatever the vector width. Prefetches ahead[r].
//
// n is > 0 and a multiple of the type's block. w, x and y need no alignment.
//
// Rows of a quantised type come in two layouts, each with its own kernels: ggml's, and the packed
// one of packed-unit.h, whose dots give the same bits and which has no axpy. Sums of q4_0 rows have a third.

#include "ggml-sparse.h"

#include <cstdint>

namespace ggml_sparse {

using dot_fn  = float (*)(int64_t n, const void * w, const void * x, const void * ahead);
using axpy_fn = void (*)(int64_t n, int n_row, const float * h, const void * const * w, const void * const * ahead, float * y);

constexpr int AXPY_ROWS = 4;

struct row_kernels {
    dot_fn  dot;
    axpy_fn axpy; // null: packed rows; both are null of those that only group-sum.h reads
};

// What follows in the parentheses, for the types that have a packed layout.
#define SPARSE_PACKED_F32(...)
#define SPARSE_PACKED_PAIRS(...) __VA_ARGS__
#define SPARSE_PACKED_SUPER4(...) __VA_ARGS__
#define SPARSE_PACKED_SUPER6(...) __VA_ARGS__

enum sparse_type_index {
#define SPARSE_TYPE(NAME, name, FORM) SPARSE_INDEX_##NAME,
#include "../quants.def"
#undef SPARSE_TYPE
    SPARSE_TYPE_COUNT,
    SPARSE_BEFORE_PACKED = SPARSE_TYPE_COUNT - 1,
#define SPARSE_TYPE(NAME, name, FORM) SPARSE_PACKED_##FORM(SPARSE_PACKED_INDEX_##NAME, )
#include "../quants.def"
#undef SPARSE_TYPE
    SPARSE_SUMS_INDEX_Q4_0,
    SPARSE_ROWS_COUNT
};

struct group_kernels; // group-sum.h
struct batch_kernels; // gemm.h

struct sparse_kernels {
    ggml_sparse_isa       isa;
    row_kernels           rows[SPARSE_ROWS_COUNT]; // by sparse_type_index
    const group_kernels * groups;                  // sums of q4_0 rows, in layouts ROWS and SUMS
    const batch_kernels * batch;                   // for several columns
};

extern const sparse_kernels sparse_kernels_generic;
extern const sparse_kernels sparse_kernels_avx2;
extern const sparse_kernels sparse_kernels_avxvnni;
extern const sparse_kernels sparse_kernels_avx512;
extern const sparse_kernels sparse_kernels_neon;

} // namespace ggml_sparse
