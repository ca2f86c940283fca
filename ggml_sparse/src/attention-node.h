#pragma once

// Attention nodes of a ggml graph (GGML_OP_FLASH_ATTN_EXT) on our kernels.

#include "ffn.h"
#include "ggml.h"

namespace ggml_sparse {

// Is `op` attention of a model of ours (its queries are products that dense.h takes), with a mask, types and
// sizes of heads that attention.h takes, and without ALiBi, soft capping or sinks?
bool attention_supports(const ggml_tensor * op);

void attention_run_node(const ggml_tensor * op, int n_threads, ggml_sparse_isa isa, ffn_workspace & ws);

} // namespace ggml_sparse
