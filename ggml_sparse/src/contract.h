#pragma once

// What a sound file means: hyper-parameters, layers and where each neuron's rows lie.
// Everything here has been checked against docs/gguf-extension.md, version 1.

#include "ggml-sparse.h"
#include "gguf-file.h"

#include <string>
#include <vector>

namespace ggml_sparse {

struct layer_spec {
    ggml_sparse_ffn ffn{};             // expert 0; mode is set by whoever runs it
    int32_t         rank          = 0; // of the predictor, 0 = none
    bool            has_frequency = false;

    // FFN of expert e: the same matrices, e experts further on.
    ggml_sparse_ffn expert(int64_t e) const;
};

struct model_spec {
    ggml_sparse_model_info                info{};
    std::vector<layer_spec>               layers;
    std::vector<const gguf_tensor_info *> rest; // tensors that libllama executes, file order
    std::vector<std::string>              warnings;
    bool                                  tied = false; // no output.weight: the embedding is the head
};

// Throws ERR_FORMAT or ERR_UNSUPPORTED. The result points into `file`.
// check_tensors: also scan the weights for NaN and Inf.
model_spec read_contract(const gguf_file & file, bool check_tensors);

} // namespace ggml_sparse
