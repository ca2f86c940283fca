// Text by libllama's tokenizer.

#include "error.h"
#include "model.h"

#include <vector>

using namespace ggml_sparse;

static const llama_vocab * vocab_of(const ggml_sparse_model & model) {
    const llama_vocab * v = model.vocab();
    if (llama_vocab_type(v) == LLAMA_VOCAB_TYPE_NONE) {
        throw error(GGML_SPARSE_ERR_UNSUPPORTED, "The file has no vocabulary.").at("tokenizer.ggml.model");
    }
    return v;
}

static void check_token(const ggml_sparse_model & model, int32_t token) {
    require_argument(token >= 0 && token < model.spec.info.n_vocab, "token outside [0, n_vocab)");
}

ggml_sparse_status ggml_sparse_tokenize(const ggml_sparse_model * model, const char * text, int32_t n_text, bool add_special,
                                        bool parse_special, int32_t * tokens, int32_t n_max, int32_t * n,
                                        ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(text && n && n_text >= 0 && n_max >= 0, "ggml_sparse_tokenize: NULL or negative argument");
        const int32_t rc = llama_tokenize(vocab_of(*model), text, n_text, tokens, n_max, add_special, parse_special);
        *n               = rc < 0 ? -rc : rc;
    });
}

ggml_sparse_status ggml_sparse_token_to_piece(const ggml_sparse_model * model, int32_t token, bool special, char * piece, int32_t n_max,
                                              int32_t * n, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(n && n_max >= 0, "ggml_sparse_token_to_piece: NULL or negative argument");
        check_token(*model, token);
        const int32_t rc = llama_token_to_piece(vocab_of(*model), token, piece, n_max, 0, special);
        *n               = rc < 0 ? -rc : rc;
    });
}

bool ggml_sparse_token_is_eog(const ggml_sparse_model * model, int32_t token) noexcept {
    return token >= 0 && token < model->spec.info.n_vocab && llama_vocab_is_eog(model->vocab(), token);
}
