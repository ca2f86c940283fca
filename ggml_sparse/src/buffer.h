#pragma once

// The buffer type that claims a model's FFN weights. It reserves addresses and copies
// nothing: the bytes stay in the mapped file, a tensor only remembers which layer and
// which of the three matrices it stands for.

#include "abi.h"
#include "contract.h"

namespace ggml_sparse {

enum class ffn_role { gate, up, down };

struct ffn_weight { // ggml_tensor::extra
    const model_spec * spec;
    int32_t            il;
    ffn_role           role;
};

// One per model; must outlive every tensor in it.
class ffn_buffer_type {
  public:
    explicit ffn_buffer_type(const model_spec & spec);
    ffn_buffer_type(const ffn_buffer_type &)             = delete;
    ffn_buffer_type & operator=(const ffn_buffer_type &) = delete;

    ggml_backend_buffer_type_t get() { return &type_; }

  private:
    ggml_backend_buffer_type type_;
};

bool is_ffn_buffer_type(ggml_backend_buffer_type_t type);

// The weight behind a tensor of ours, null for any other tensor.
const ffn_weight * find_weight(const ggml_tensor * t);

} // namespace ggml_sparse
