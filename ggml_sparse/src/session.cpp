#include "session.h"

#include <algorithm>

namespace ggml_sparse {

ggml_sparse_ffn ffn_session::ffn(int32_t il, int64_t e) const {
    ggml_sparse_ffn f      = spec.layers[size_t(il)].expert(e);
    const bool      masked = spec.info.default_mode == GGML_SPARSE_MODE_PREDICTED;
    if (mode == GGML_SPARSE_MODE_REFERENCE && !masked) {
        f.fc1.data = f.fc2.data = f.fc2_t.data = nullptr;
    }
    f.threshold += threshold_shift;
    f.mode = mode == GGML_SPARSE_MODE_PREDICTED && !f.fc1.data ? GGML_SPARSE_MODE_EXACT : mode;
    return f;
}

void ffn_session::start_batch() {
    std::fill(layers.begin(), layers.end(), ggml_sparse_layer_stats{});
    times = {};
    ++i_batch;
    failure.clear();
}

void ffn_session::profile(bool enable) {
    const size_t n_layer = enable ? spec.layers.size() : 0;
    profile_counts.assign(n_layer, std::vector<uint64_t>(size_t(n_set() * spec.info.n_ff)));
    profile_columns.assign(n_layer, std::vector<uint64_t>(size_t(n_set())));
}

void ffn_session::diagnose(int32_t every) {
    diagnose_every = every;
    diagnose_seen.assign(spec.layers.size(), 0);
    diagnosis.assign(spec.layers.size(), ggml_sparse_layer_diagnosis{});
}

bool ffn_session::stopping() {
    if (!cancel.load(std::memory_order_relaxed)) {
        return false;
    }
    if (!hushed) {
        hushed.emplace();
    }
    return true;
}

bool session_cancelled(void * session) { return static_cast<ffn_session *>(session)->stopping(); }

} // namespace ggml_sparse
