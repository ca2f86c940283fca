#pragma once

#include "ggml-sparse.h"

namespace ggml_sparse {

// Check that the matrices of an FFN fit each other and its mode: types of quants.def, shapes,
// block widths, data present. Throws error(ERR_ARGUMENT or ERR_UNSUPPORTED).
void ffn_check(const ggml_sparse_ffn & ffn);

// The same for one matrix; `name` is used in the message.
void matrix_check(const ggml_sparse_matrix & m, const char * name);

} // namespace ggml_sparse
