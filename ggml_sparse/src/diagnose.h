#pragma once

// What a selection misses: some columns of an FFN computed in full beside the run itself. Slow
// and for measurements only; the run's results and counters are not touched.

#include "ffn.h"

namespace ggml_sparse {

// Adds one column to `sum`. x [n_embd]; mask [n_ff], 1 where the run let the neuron pass. `act`
// is scratch of n_ff. Same bits for any n_threads.
void diagnose_column(const ggml_sparse_ffn & ffn, const sparse_kernels & kernels, int n_threads, const float * x, const uint8_t * mask,
                     float * act, ggml_sparse_layer_diagnosis & sum);

} // namespace ggml_sparse
