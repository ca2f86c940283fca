#pragma once

// The vocabulary in a file: libllama asserts on what is checked here.

#include "ggml-sparse.h"
#include "key-reader.h"

namespace ggml_sparse {

// Check the tokenizer.* keys against info.n_vocab; fills in the special tokens of `info`.
void read_vocabulary(key_reader & keys, ggml_sparse_model_info & info);

} // namespace ggml_sparse
