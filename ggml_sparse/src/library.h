#pragma once

namespace ggml_sparse {

// Check the host, register the backend, run the self-test; once. Throws ERR_HOST, also on
// every later call when the first one failed.
void init_library();

} // namespace ggml_sparse
