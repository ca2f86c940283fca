#pragma once

// The small operators between products: norms, residuals, the router's choice, rows written to the KV cache. Each is
// microseconds of arithmetic; run by ggml's CPU backend each was a split of the graph and a parallel region or two.

#include "ggml.h"

namespace ggml_sparse {

// Is `op` one of them, on F32 tensors of the layouts that libllama's graphs have?
bool glue_supports(const ggml_tensor * op);

// False when an index lies outside of its tensor.
bool glue_run(const ggml_tensor * op, int n_threads);

} // namespace ggml_sparse
