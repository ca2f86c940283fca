#pragma once

#include "ggml.h"

namespace ggml_sparse {

// Does what `t` holds come from matrices of ours? The device is asked about the graphs of every context in the process;
// only those of our models may run here, whatever the operator.
bool is_of_our_model(const ggml_tensor * t);

} // namespace ggml_sparse
