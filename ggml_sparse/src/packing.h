#pragma once

// Rows between ggml's layout and those of cpu/packed-unit.h.

#include "ggml-sparse.h"

#include <cstdint>

namespace ggml_sparse {

// One row of n elements, or whole units of it, either way; src and dst do not overlap.
struct row_packing {
    int32_t            type; // enum ggml_type
    ggml_sparse_layout layout;
    void (*pack)(int64_t n, const uint8_t * src, uint8_t * dst);
    void (*unpack)(int64_t n, const uint8_t * src, uint8_t * dst);
};

// Null when rows of `type` and n_col have no such layout.
const row_packing * packing_find(int32_t type, ggml_sparse_layout layout, int64_t n_col);

} // namespace ggml_sparse
