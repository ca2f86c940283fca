#pragma once

// One or several sequences: libllama's context, the session its FFN blocks run in, and its records.

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

    // sequences.cpp
    void          decode_rows(const ggml_sparse_row * rows, int32_t n_rows);
    const float * row_logits(int32_t i_row);
    int32_t       seq_n_past(int32_t seq) const;
    int32_t       seq_keep(int32_t seq, int32_t n);
    void          seq_copy(int32_t from, int32_t to);

    struct llama_deleter {
        void operator()(llama_context * c) const;
    };

    ggml_sparse_model &                           model;
    ggml_sparse::ffn_session                      session; // before llama: its streams point here
    std::unique_ptr<llama_context, llama_deleter> llama;
    int32_t                                       n_ctx = 0, n_batch = 0, n_seq_max = 1;
    int32_t                                       n_past     = 0; // of sequence 0
    bool                                          has_logits = false;
    std::vector<bool>                             row_has_logits;  // of the last decode_rows
    bool                                          copying = false; // a copy of a sequence is still to be made
    int64_t                                       n_evals = 0;
    std::deque<ggml_sparse_stats>                 records;

  private:
    void    decode(const int32_t * tokens, int32_t n_tokens, bool all_logits, bool last);
    int32_t run(const llama_batch & batch);
    int32_t decode_quietly(const llama_batch & batch);
    void    check_decode(int32_t rc) const;
    void    check_rows(const ggml_sparse_row * rows, int32_t n_rows) const;
    void    check_seq(int32_t seq) const;
    void    record(int32_t n_tokens, uint64_t ns_total);
    void    check_tokens(const int32_t * tokens, int32_t n_tokens) const;
    void    copy_logits(int32_t n_tokens, float * logits) const;
};
