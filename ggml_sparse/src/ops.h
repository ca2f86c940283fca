#ifndef GGML_SPARSE_OPS_H
#define GGML_SPARSE_OPS_H

#include "ggml-sparse.h"

// Check that the matrices of an FFN fit each other and its mode: types of quants.def, shapes,
// block widths, data present. On failure fills err (may be null) and returns its status.
enum ggml_sparse_status ffn_check(const ggml_sparse_ffn & ffn, struct ggml_sparse_error * err);

#endif // GGML_SPARSE_OPS_H
