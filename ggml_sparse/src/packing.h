#pragma once

// Rows between ggml's layout and the packed one of cpu/packed-unit.h.

#include <cstdint>

namespace ggml_sparse {

// One row of n elements, or whole units of it, either way; src and dst do not overlap.
struct row_packing {
    int32_t type; // enum ggml_type
    void (*pack)(int64_t n, const uint8_t * src, uint8_t * dst);
    void (*unpack)(int64_t n, const uint8_t * src, uint8_t * dst);
};

// Null when rows of `type` and n_col have no packed layout.
const row_packing * packing_find(int32_t type, int64_t n_col);

} // namespace ggml_sparse
