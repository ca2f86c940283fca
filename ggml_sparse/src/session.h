#pragma once

// What one context shares with the backend that runs its FFN blocks: the model, the mode,
// the cancel flag and the counters. The backend finds it through the abort callback that
// libllama hands to every backend of a context (see backend.cpp).

#include "contract.h"
#include "ffn.h"
#include "host.h"

#include <atomic>
#include <optional>
#include <string>
#include <vector>

namespace ggml_sparse {

struct ffn_session {
    explicit ffn_session(const model_spec & spec) : spec(spec), layers(spec.layers.size()) {}

    const model_spec &     spec;
    ggml_sparse_mode       mode            = GGML_SPARSE_MODE_EXACT; // never DEFAULT
    float                  threshold_shift = 0;                      // added to the predictors' thresholds
    const sparse_kernels * kernels         = nullptr;
    std::atomic<bool>      cancel{false};
    std::string            failure; // why the last graph was refused

    // From the moment that a cancelled batch stops: libllama would report it as four errors.
    std::optional<host_log_scope> hushed;

    // counters of the batch under way; its number tells an open block that it is stale
    uint64_t                             i_batch = 0;
    std::vector<ggml_sparse_layer_stats> layers;
    ffn_times                            times{};

    // profile, per layer [n_set, n_ff] and [n_set]; empty while off
    std::vector<std::vector<uint64_t>> profile_counts, profile_columns;

    // diagnosis: every n-th column (0 = none), columns seen and counters per layer
    int32_t                                  diagnose_every = 0;
    std::vector<uint64_t>                    diagnose_seen;
    std::vector<ggml_sparse_layer_diagnosis> diagnosis;

    int64_t n_set() const { return spec.info.n_expert > 0 ? spec.info.n_expert : 1; }

    // FFN of expert e as the mode wants it run.
    ggml_sparse_ffn ffn(int32_t il, int64_t e) const;
    void            start_batch();
    void            end_batch() { hushed.reset(); }
    // Whether the batch is to stop; if so, what the host says of it until end_batch is dropped.
    bool stopping();
    void profile(bool enable);
    void diagnose(int32_t every);
};

struct flag_reset { // a cancel concerns one evaluation only
    std::atomic<bool> & flag;
    ~flag_reset() { flag = false; }
};

// libllama polls it between CPU nodes; `session` is an ffn_session.
bool session_cancelled(void * session);

} // namespace ggml_sparse
