#pragma once

// Sparse FFNs on few columns each, all in one parallel region: the experts of a token, or a
// small batch. A unit of work is done for every column of its FFN before the next one, so that
// the rows that columns share are read from memory once.

#include "ffn.h"
#include "neurons.h"

namespace ggml_sparse {

// DENSE, EXACT and PREDICTED. Adds the rows computed to `total`.
void few_run(const ffn_call * calls, int64_t n_call, const ffn_run_params & params, ffn_workspace & ws, neuron_counts & total,
             ffn_times & times);

} // namespace ggml_sparse
