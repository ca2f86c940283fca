#pragma once

// Products with libllama's own matrices (attention, router, head) on our kernels: dots for
// one to four columns, tiles of rows for more.

#include "ffn.h"
#include "ggml.h"

namespace ggml_sparse {

// Is `op` a product {n_col, n_row} x {n_col, n} with mapped weights and F32 columns?
bool dense_supports(const ggml_tensor * op);

// y = W x. Bits do not depend on n_threads nor on the number of columns.
void dense_run(const ggml_tensor * op, int n_threads, const sparse_kernels & kernels, ffn_workspace & ws);

} // namespace ggml_sparse
