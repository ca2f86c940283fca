#pragma once

namespace ggml_sparse {

// A one-layer model in memory, one token, through libllama and our backend, against a
// scalar computation of the same. Throws ERR_HOST when they differ: then the host's
// structures are not what abi.h says, or its graph is not what block.h expects.
void run_selftest();

} // namespace ggml_sparse
