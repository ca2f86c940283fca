#pragma once

#include "ggml-sparse.h"

namespace ggml_sparse {

struct sparse_kernels;

// Kernels of one instruction set; AUTO = the best that this CPU can run. Null when this CPU
// or this build cannot run `isa`. The first call also initialises ggml's CPU tables.
const sparse_kernels * sparse_kernels_get(enum ggml_sparse_isa isa);

// Does this CPU bring rows that are read one behind the other to its cache faster by itself than with our prefetches
// beside its own? AMD's do (docs/decisions.md, 23); Intel's want ours.
bool cpu_follows_rows();

} // namespace ggml_sparse
