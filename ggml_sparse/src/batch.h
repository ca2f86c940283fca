#pragma once

// One sparse FFN on several columns: rows are unpacked once, in tiles of sixteen, and
// multiplied with every column that needs one of them. What ffn.h guarantees holds here.

#include "ffn.h"
#include "neurons.h"

namespace ggml_sparse {

// ffn_run for DENSE, EXACT and PREDICTED. Adds the rows computed to `total`.
bool batch_run(const ggml_sparse_ffn & ffn, const ffn_columns & cols, const ffn_run_params & params, ffn_workspace & ws,
               neuron_counts & total, ffn_times & times);

} // namespace ggml_sparse
