#pragma once

// The out-of-tree ggml backend: registry entry, device and the stream that libllama makes
// for each of its contexts.

#include "abi.h"

namespace ggml_sparse {

ggml_backend_reg_t backend_reg();
ggml_backend_dev_t backend_device();

} // namespace ggml_sparse
