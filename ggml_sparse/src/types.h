#pragma once

// Weight types: look-ups generated from quants.def, and the rounding of x for a dot.

#include "ggml-sparse.h"
#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace ggml_sparse {

enum class x_form { F32, PAIRS, SUPER4, SUPER6, LANES };

// A type in one of its layouts.
struct weight_type {
    ggml_type          type;
    const char *       name;
    x_form             form;
    ggml_type          x_type; // what x is rounded to: Q8_0, or F32 = not at all
    int                index;  // sparse_type_index
    int64_t            block;  // a row is a multiple of this
    ggml_sparse_layout layout;

    // May one prepared x serve rows of both types?
    bool shares_x(const weight_type & other) const { return form == other.form; }
};

int                 weight_type_count();       // of quants.def
const weight_type & weight_type_at(int index); // by sparse_type_index
// Null when `type` is not in quants.def or has no such layout.
const weight_type * weight_type_find(int32_t type, ggml_sparse_layout layout = GGML_SPARSE_LAYOUT_ROWS);

// Bytes that one x of n elements takes when prepared for a dot against `wt`, a multiple of 64; see cpu/x-unit.h.
size_t x_prepared_size(const weight_type & wt, int64_t n);
// Prepare x [n]. Returns where the dot reads it: `dst`, or x itself when nothing is rounded.
// n <= 0x7fffffff and a multiple of the type's block.
const void * x_prepare(const weight_type & wt, const float * x, int64_t n, void * dst);
// x as the dot sees it: rounded to x_type and back to F32. dst [n]. Throws std::bad_alloc.
void x_round(const weight_type & wt, const float * x, int64_t n, float * dst);

// Of m, in any layout.
inline size_t row_stride(const ggml_sparse_matrix & m) {
    return m.row_stride ? m.row_stride : ggml_row_size(static_cast<ggml_type>(m.type), m.n_col);
}
inline const uint8_t * row_at(const ggml_sparse_matrix & m, int64_t i) {
    return static_cast<const uint8_t *>(m.data) + static_cast<size_t>(i) * row_stride(m);
}

// One row in ggml's layout, or a part of it that starts and ends at a block, to F32.
void row_to_float(ggml_type type, const void * src, float * dst, int64_t n);
// Row i of m, of any layout. dst [n_col]. Throws std::bad_alloc.
void matrix_row_to_float(const ggml_sparse_matrix & m, int64_t i, float * dst);

} // namespace ggml_sparse
