#include "model.h"

#include "error.h"
#include "host.h"
#include "library.h"
#include "types.h"
#include "view.h"

#include <cstdio>

using namespace ggml_sparse;

ggml_sparse_model::ggml_sparse_model(const std::string & path, bool check_tensors)
    : file(path), spec(read_contract(file, check_tensors)), ffn_weights(spec), matrices(file), products(file) {
    load_llama();
    read_meta();
    for (const auto & w : spec.warnings) {
        warnings += w + "\n";
    }
}

void ggml_sparse_model::read_meta() {
    for (const auto & [name, value] : file.keys()) {
        if (!value.is_array) {
            meta.emplace(name, value.text());
        }
    }
}

void ggml_sparse_model::read_special_tokens() {
    spec.info.token_bos = llama_vocab_bos(vocab());
    spec.info.token_eos = llama_vocab_eos(vocab());
    spec.info.token_eot = llama_vocab_eot(vocab());
    spec.info.add_bos   = llama_vocab_get_add_bos(vocab());
}

static bool has_vocab(const gguf_file & file) { return file.find_key("tokenizer.ggml.model")->strings[0] != "no_vocab"; }

void ggml_sparse_model::load_llama() {
    llama_view                             view(file, spec);
    const std::string                      multiplied  = products_pattern(spec);
    const llama_model_tensor_buft_override overrides[] = {{k_ffn_pattern, ffn_weights.get()},
                                                          {multiplied.c_str(), products.get()}, // the first that fits is taken
                                                          {k_matrix_pattern, matrices.get()},
                                                          {nullptr, nullptr}};

    llama_model_params params    = llama_model_default_params();
    params.load_mode             = LLAMA_LOAD_MODE_NONE;
    params.tensor_buft_overrides = overrides;
    // hosts built by gcc 12 die in AMX prefill; docs/decisions.md 6
    params.use_extra_bufts = false;

    std::unique_ptr<FILE, int (*)(FILE *)> stream(view.open(), std::fclose);
    host_log_scope                         log;
    llama.reset(llama_model_load_from_file_ptr(stream.get(), params));
    if (!llama) {
        throw error(GGML_SPARSE_ERR_BACKEND, file.path() + ": libllama could not load the model: " + log.errors()).at(file.path());
    }
    matrices.set_loaded();
    spec.info.ffn_bytes_read_at_load = view.ffn_bytes_copied();
    if (has_vocab(file)) {
        read_special_tokens();
    }
}

// --- C API -------------------------------------------------------------------------

ggml_sparse_status ggml_sparse_model_load(const char * path, bool check_tensors, ggml_sparse_model ** model,
                                          ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(path && model, "ggml_sparse_model_load: path and model must not be NULL");
        *model = nullptr;
        init_library();
        *model = new ggml_sparse_model(path, check_tensors);
    });
}

void ggml_sparse_model_free(ggml_sparse_model * model) noexcept { delete model; }

void ggml_sparse_model_get_info(const ggml_sparse_model * model, ggml_sparse_model_info * info) noexcept { *info = model->spec.info; }

static int32_t type_of(const ggml_sparse_matrix & m) { return m.data ? m.type : -1; }

ggml_sparse_status ggml_sparse_model_get_layer(const ggml_sparse_model * model, int32_t il, ggml_sparse_layer_info * info,
                                               ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(il >= 0 && size_t(il) < model->spec.layers.size(), "layer index outside [0, n_layer)");
        const layer_spec & l = model->spec.layers[size_t(il)];
        *info                = {l.rank,
                                l.ffn.threshold,
                                l.ffn.first_branch,
                                type_of(l.ffn.gate),
                                type_of(l.ffn.up),
                                type_of(l.ffn.down_t),
                                type_of(l.ffn.fc1),
                                l.has_frequency,
                                l.ffn.up.layout,
                                l.ffn.down_t.layout,
                                row_stride(l.ffn.up) > ggml_row_size(ggml_type(l.ffn.up.type), l.ffn.up.n_col)};
    });
}

const char * ggml_sparse_model_meta(const ggml_sparse_model * model, const char * key) noexcept {
    const auto it = model->meta.find(key);
    return it == model->meta.end() ? nullptr : it->second.c_str();
}

const char * ggml_sparse_model_warnings(const ggml_sparse_model * model) noexcept { return model->warnings.c_str(); }
