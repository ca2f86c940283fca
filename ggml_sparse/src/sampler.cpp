// Sampling by libllama's sampler chain.

#include "context.h"
#include "error.h"
#include "host.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

using namespace ggml_sparse;

struct ggml_sparse_sampler {
    struct deleter {
        void operator()(llama_sampler * s) const { llama_sampler_free(s); }
    };

    std::unique_ptr<llama_sampler, deleter> chain;
};

// libllama's parser calls itself for every parenthesis and takes quadratic time over alternatives: a
// grammar from an unknown hand must not end the process, nor hold it up for long.
static constexpr size_t k_max_grammar_size  = 128 * 1024; // bytes
static constexpr int    k_max_grammar_depth = 1024;       // parentheses

// Deepest nesting of parentheses outside of literals, character classes and comments.
static int grammar_depth(const char * text) {
    int  depth = 0, deepest = 0;
    char until = 0; // what ends the literal, class or comment that we are in
    for (const char * c = text; *c; ++c) {
        if (until) {
            if (*c == '\\' && until != '\n' && c[1]) {
                ++c;
            } else if (*c == until) {
                until = 0;
            }
        } else if (*c == '"' || *c == '[' || *c == '#') {
            until = *c == '[' ? ']' : *c == '#' ? '\n' : '"';
        } else if (*c == '(') {
            deepest = std::max(deepest, ++depth);
        } else if (*c == ')') {
            --depth;
        }
    }
    return deepest;
}

static void check_grammar(const char * gbnf) {
    const size_t size  = std::strlen(gbnf);
    const int    depth = grammar_depth(gbnf);
    if (size <= k_max_grammar_size && depth <= k_max_grammar_depth) {
        return;
    }
    const std::string limits =
        "at most " + std::to_string(k_max_grammar_size) + " bytes and " + std::to_string(k_max_grammar_depth) + " parentheses deep";
    const std::string found = std::to_string(size) + " bytes, " + std::to_string(depth) + " deep";
    throw error(GGML_SPARSE_ERR_GRAMMAR, "The grammar is too large: " + found + ", but " + limits + ".")
        .at("grammar")
        .expected(limits)
        .found(found);
}

static llama_sampler * make_grammar(const llama_vocab * vocab, const char * gbnf) {
    host_log_scope  log;
    llama_sampler * s = llama_sampler_init_grammar(vocab, gbnf, "root");
    if (!s) {
        throw error(GGML_SPARSE_ERR_GRAMMAR, "The grammar does not parse: " + log.errors()).at("grammar");
    }
    return s;
}

static void add_biases(llama_sampler * chain, const ggml_sparse_sampler_params & p, const ggml_sparse_model_info & info) {
    require_argument(p.n_bias >= 0 && (p.n_bias == 0 || p.bias), "bias must not be NULL with n_bias above 0");
    std::vector<llama_logit_bias> biases;
    for (int32_t i = 0; i < p.n_bias; ++i) {
        const ggml_sparse_logit_bias & b = p.bias[i];
        require_argument(b.token >= 0 && b.token < info.n_vocab, "a logit bias names a token that does not exist");
        require_argument(std::isfinite(b.bias) || b.bias == -INFINITY, "a logit bias must be finite or -INFINITY");
        biases.push_back({b.token, b.bias});
    }
    if (!biases.empty()) {
        llama_sampler_chain_add(chain, llama_sampler_init_logit_bias(info.n_vocab, int32_t(biases.size()), biases.data()));
    }
}

static void add_penalties(llama_sampler * chain, const ggml_sparse_sampler_params & p, const ggml_sparse_model_info & info) {
    const int32_t last_n = p.penalty_last_n < 0 ? info.n_ctx_train : p.penalty_last_n;
    if (last_n > 0 && (p.penalty_repeat != 1.0f || p.penalty_freq != 0.0f || p.penalty_present != 0.0f)) {
        llama_sampler_chain_add(chain,
                                llama_sampler_init_penalties(info.n_vocab, last_n, p.penalty_repeat, p.penalty_freq, p.penalty_present));
    }
}

// libllama's usual order: top-k, top-p, min-p, temperature, draw.
static void add_choice(llama_sampler * chain, const ggml_sparse_sampler_params & p) {
    if (p.temp <= 0.0f) {
        llama_sampler_chain_add(chain, llama_sampler_init_greedy());
        return;
    }
    llama_sampler_chain_add(chain, llama_sampler_init_top_k(p.top_k));
    llama_sampler_chain_add(chain, llama_sampler_init_top_p(p.top_p, 1));
    llama_sampler_chain_add(chain, llama_sampler_init_min_p(p.min_p, 1));
    llama_sampler_chain_add(chain, llama_sampler_init_temp(p.temp));
    llama_sampler_chain_add(chain, llama_sampler_init_dist(p.seed));
}

ggml_sparse_sampler_params ggml_sparse_sampler_default_params(void) noexcept {
    return {0, 0.8f, 40, 0.95f, 0.05f, 64, 1.0f, 0.0f, 0.0f, nullptr, nullptr, 0};
}

ggml_sparse_status ggml_sparse_sampler_create(const ggml_sparse_model * model, const ggml_sparse_sampler_params * params,
                                              ggml_sparse_sampler ** sampler, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(model && params && sampler, "ggml_sparse_sampler_create: NULL argument");
        require_argument(params->penalty_repeat > 0.0f, "penalty_repeat must be above 0");
        *sampler = nullptr;
        auto s   = std::make_unique<ggml_sparse_sampler>();
        s->chain.reset(llama_sampler_chain_init({true}));
        if (params->grammar) {
            check_grammar(params->grammar);
            llama_sampler_chain_add(s->chain.get(), make_grammar(model->vocab(), params->grammar));
        }
        add_biases(s->chain.get(), *params, model->spec.info);
        add_penalties(s->chain.get(), *params, model->spec.info);
        add_choice(s->chain.get(), *params);
        *sampler = s.release();
    });
}

void ggml_sparse_sampler_free(ggml_sparse_sampler * sampler) noexcept { delete sampler; }

ggml_sparse_status ggml_sparse_sampler_sample(ggml_sparse_sampler * sampler, ggml_sparse_context * ctx, int32_t * token,
                                              ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(ctx->has_logits, "sample needs an eval first");
        *token = llama_sampler_sample(sampler->chain.get(), ctx->llama.get(), -1);
    });
}

ggml_sparse_status ggml_sparse_sampler_sample_row(ggml_sparse_sampler * sampler, ggml_sparse_context * ctx, int32_t i_row, int32_t * token,
                                                  ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(ctx->row_logits(i_row) != nullptr, "sample_row needs a row whose logits were wanted");
        *token = llama_sampler_sample(sampler->chain.get(), ctx->llama.get(), i_row);
    });
}

// The grammar constrains what is generated, so it never hears of the prompt.
void ggml_sparse_sampler_accept(ggml_sparse_sampler * sampler, int32_t token) noexcept {
    for (int i = 0; i < llama_sampler_chain_n(sampler->chain.get()); ++i) {
        llama_sampler * s = llama_sampler_chain_get(sampler->chain.get(), i);
        if (std::string(llama_sampler_name(s)) != "grammar") {
            llama_sampler_accept(s, token);
        }
    }
}
