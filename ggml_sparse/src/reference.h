#pragma once

#include "ggml-sparse.h"

namespace ggml_sparse {

// MODE_REFERENCE: one column of the FFN in plain scalar double code, the oracle of the fast
// paths. Sees the same rounded x and the same dequantised rows as they do, nothing else is
// rounded but fc2's input, to F32. Selects by the predictor iff fc1.data is given.
//   x [n_embd], y [n_embd], mask [n_ff] (1 = selected), active [n_ff] (1 = h != 0)
// Adds to stats. Throws std::bad_alloc.
void reference_ffn(const ggml_sparse_ffn & ffn, const float * x, float * y, uint8_t * mask, uint8_t * active,
                   ggml_sparse_layer_stats & stats);

} // namespace ggml_sparse
