#pragma once

// The buffer types that claim a model's weights. They reserve addresses and copy nothing:
// the bytes stay in the mapped file.
//   SPARSE_FFN     gate, up, down: a tensor only remembers which layer and which of the
//                  three matrices it stands for
//   SPARSE_MAPPED  matrices that other backends may read: a tensor points into the file
//   SPARSE_ROWS    matrices that are only multiplied, by us: their rows may be packed

#include "abi.h"
#include "contract.h"

#include <list>

namespace ggml_sparse {

enum class ffn_role { gate, up, down };

struct ffn_weight { // ggml_tensor::extra
    const model_spec * spec;
    int32_t            il;
    ffn_role           role;
};

// One per model and kind; must outlive every tensor in it.
class weight_buffer_type {
  public:
    weight_buffer_type(const weight_buffer_type &)             = delete;
    weight_buffer_type & operator=(const weight_buffer_type &) = delete;

    ggml_backend_buffer_type_t get() { return &type_; }

    virtual const char * name() const           = 0;
    virtual bool         is_host() const        = 0;
    virtual bool         place(ggml_tensor * t) = 0; // false: a tensor that is not the model's

  protected:
    weight_buffer_type();
    ~weight_buffer_type() = default;

  private:
    ggml_backend_buffer_type type_;
};

class ffn_buffer_type final : public weight_buffer_type {
  public:
    explicit ffn_buffer_type(const model_spec & spec) : spec_(spec) {}

    const char * name() const override { return "SPARSE_FFN"; }
    bool         is_host() const override { return false; }
    bool         place(ggml_tensor * t) override;

  private:
    const model_spec &    spec_;
    std::list<ffn_weight> weights_;
};

class mapped_buffer_type final : public weight_buffer_type {
  public:
    explicit mapped_buffer_type(const gguf_file & file) : file_(file) {}

    const char * name() const override { return "SPARSE_MAPPED"; }
    bool         is_host() const override { return loaded_; }
    bool         place(ggml_tensor * t) override;

    // Until then libllama writes into host buffers by itself, and these are read-only.
    void set_loaded() { loaded_ = true; }

  private:
    const gguf_file & file_;
    bool              loaded_ = false;
};

// Not host memory, so that no other backend reads the bytes as ggml's; what is copied out of it is unpacked.
class rows_buffer_type final : public weight_buffer_type {
  public:
    explicit rows_buffer_type(const gguf_file & file) : file_(file) {}

    const char * name() const override { return "SPARSE_ROWS"; }
    bool         is_host() const override { return false; }
    bool         place(ggml_tensor * t) override;

    std::list<ggml_sparse_matrix> & matrices() { return matrices_; }

  private:
    const gguf_file &             file_;
    std::list<ggml_sparse_matrix> matrices_; // ggml_tensor::extra
};

bool is_weight_buffer_type(ggml_backend_buffer_type_t type);

// The FFN weight behind a tensor of ours, null for any other tensor.
const ffn_weight * find_weight(const ggml_tensor * t);

// The matrix behind a tensor of SPARSE_MAPPED or SPARSE_ROWS; type -1 for any other tensor, and where
// the type is none of quants.def.
ggml_sparse_matrix find_matrix(const ggml_tensor * t);

} // namespace ggml_sparse
