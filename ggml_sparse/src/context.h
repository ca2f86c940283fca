#pragma once

// One sequence: libllama's context, the session its FFN blocks run in, and its records.

#include "model.h"
#include "session.h"

#include <deque>
#include <memory>

struct ggml_sparse_context {
    // Parameters are those of the C API, already filled in and checked against the model.
    ggml_sparse_context(ggml_sparse_model & model, const ggml_sparse_context_params & params);

    void eval(const int32_t * tokens, int32_t n_tokens, float * logits);
    void embed(const int32_t * tokens, int32_t n_tokens, float * states);
    void truncate(int32_t n_past);
    void set_mode(ggml_sparse_mode mode);

    struct llama_deleter {
        void operator()(llama_context * c) const;
    };

    ggml_sparse_model &                           model;
    ggml_sparse::ffn_session                      session; // before llama: its streams point here
    std::unique_ptr<llama_context, llama_deleter> llama;
    int32_t                                       n_ctx = 0, n_batch = 0, n_past = 0;
    bool                                          has_logits = false;
    int64_t                                       n_evals    = 0;
    std::deque<ggml_sparse_stats>                 records;

  private:
    void decode(const int32_t * tokens, int32_t n_tokens, bool all_logits, bool last);
    void record(int32_t n_tokens, uint64_t ns_total);
    void check_tokens(const int32_t * tokens, int32_t n_tokens) const;
    void copy_logits(int32_t n_tokens, float * logits) const;
};
