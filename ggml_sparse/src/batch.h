#pragma once

// One sparse FFN on several columns: rows are unpacked once, in tiles of sixteen, and
// multiplied with every column that needs one of them. What ffn.h guarantees holds here.

#include "ffn.h"
#include "neurons.h"

namespace ggml_sparse {

// DENSE, EXACT and PREDICTED. Adds the rows computed to `total`. False = cancelled.
bool batch_run(const ffn_call & call, const ffn_run_params & params, ffn_workspace & ws, neuron_counts & total, ffn_times & times);

} // namespace ggml_sparse
