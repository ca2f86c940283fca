#pragma once

// Rows between ggml's layout and the packed one of cpu/packed-unit.h.

#include "types.h"

namespace ggml_sparse {

// One row of n elements, or whole units of it, either way; src and dst do not overlap.
struct row_packing {
    void (*pack)(int64_t n, const uint8_t * src, uint8_t * dst);
    void (*unpack)(int64_t n, const uint8_t * src, uint8_t * dst);
};

// Null when rows of `type` and n_col have no packed layout.
const row_packing * packing_find(int32_t type, int64_t n_col);

// Row i of m as F32. dst [n_col]. Throws std::bad_alloc.
void matrix_row_to_float(const ggml_sparse_matrix & m, int64_t i, float * dst);

} // namespace ggml_sparse
