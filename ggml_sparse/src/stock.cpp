// Files of other architectures, which libllama evaluates by itself.

#include "error.h"
#include "host.h"
#include "keys.h"
#include "library.h"
#include "model.h"

#include <cstdio>

using namespace ggml_sparse;

// What is known before libllama has read the file.
static model_spec stock_spec(const gguf_file & file) {
    const gguf_value * arch = file.find_key("general.architecture");
    const std::string  name = arch && !arch->strings.empty() ? std::string(arch->strings[0]) : "";
    if (name.empty() || name == keys::architecture) {
        throw error(GGML_SPARSE_ERR_UNSUPPORTED, file.path() + ": the file is not one for stock llama.cpp.")
            .at("general.architecture")
            .expected("an architecture of llama.cpp")
            .found(name);
    }
    model_spec spec;
    std::snprintf(spec.info.base_architecture, sizeof(spec.info.base_architecture), "%s", name.c_str());
    spec.info.default_mode = GGML_SPARSE_MODE_DENSE;
    spec.info.bytes_file   = file.size();
    spec.info.token_bos = spec.info.token_eos = spec.info.token_eot = -1;
    return spec;
}

ggml_sparse_model::ggml_sparse_model(const std::string & path, stock)
    : file(path), spec(stock_spec(file)), ffn_weights(spec), matrices(file), products(file) {
    load_stock();
    read_meta();
}

void ggml_sparse_model::load_stock() {
    llama_model_params params = llama_model_default_params();
    params.use_extra_bufts    = false; // as for our own; see docs/decisions.md

    host_log_scope log;
    llama.reset(llama_model_load_from_file(file.path().c_str(), params));
    if (!llama) {
        throw error(GGML_SPARSE_ERR_UNSUPPORTED, file.path() + ": libllama could not load the model: " + log.errors()).at(file.path());
    }
    if (!llama_model_has_decoder(llama.get()) || llama_model_has_encoder(llama.get()) ||
        llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_NONE) {
        throw error(GGML_SPARSE_ERR_UNSUPPORTED, file.path() + ": the model does not generate text.").at(file.path());
    }
    ggml_sparse_model_info & info = spec.info;
    info.n_layer                  = llama_model_n_layer(llama.get());
    info.n_embd                   = llama_model_n_embd(llama.get());
    info.n_head                   = llama_model_n_head(llama.get());
    info.n_head_kv                = llama_model_n_head_kv(llama.get());
    info.n_vocab                  = llama_vocab_n_tokens(vocab());
    info.n_ctx_train              = llama_model_n_ctx_train(llama.get());
    read_special_tokens();
}

ggml_sparse_status ggml_sparse_model_load_stock(const char * path, ggml_sparse_model ** model, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(path && model, "ggml_sparse_model_load_stock: path and model must not be NULL");
        *model = nullptr;
        init_library();
        *model = new ggml_sparse_model(path, ggml_sparse_model::stock{});
    });
}
