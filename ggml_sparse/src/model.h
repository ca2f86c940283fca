#pragma once

// A loaded model: the mapped file, its checked meaning and libllama's view of it.

#include "buffer.h"
#include "contract.h"
#include "gguf-file.h"
#include "llama.h"

#include <memory>
#include <string>

struct ggml_sparse_model {
    // No host checks and no self-test here: the self-test itself loads a model.
    ggml_sparse_model(const std::string & path, bool check_tensors);
    // A file for stock llama.cpp; see stock.cpp.
    struct stock {};
    ggml_sparse_model(const std::string & path, stock);
    ggml_sparse_model(const ggml_sparse_model &)             = delete;
    ggml_sparse_model & operator=(const ggml_sparse_model &) = delete;

    struct llama_deleter {
        void operator()(llama_model * m) const { llama_model_free(m); }
    };

    // declared in the order they are needed: libllama's model goes first
    ggml_sparse::gguf_file                       file;
    ggml_sparse::model_spec                      spec;
    ggml_sparse::ffn_buffer_type                 ffn_weights;
    ggml_sparse::mapped_buffer_type              matrices;
    ggml_sparse::rows_buffer_type                products; // of those, what is only multiplied
    std::unique_ptr<llama_model, llama_deleter>  llama;
    std::unordered_map<std::string, std::string> meta; // keys as text, made at load
    std::string                                  warnings;

    // Throws as mapped_file::make_resident. The order of rows is made for `mode`.
    void make_resident(ggml_sparse_mode mode);

    const llama_vocab * vocab() const { return llama_model_get_vocab(llama.get()); }

  private:
    void load_llama();
    void load_stock();
    void read_meta();
    void read_special_tokens();
};
