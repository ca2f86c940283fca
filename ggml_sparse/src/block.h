#pragma once

// One FFN block as the scheduler hands it over: gate and up products, GLU, down product,
// node by node and possibly in several calls. Nothing is computed before `down`.

#include "buffer.h"
#include "session.h"

#include <vector>

namespace ggml_sparse {

class ffn_block {
  public:
    // Take the next node of ours. FAILED when it does not continue a block as documented
    // (session.failure says how), ABORTED when the session was cancelled.
    ggml_status take(const ggml_tensor * node, ffn_session & session, int n_threads);

  private:
    bool        capture(const ggml_tensor * node, const ffn_weight & w, ffn_session & session);
    ggml_status down(const ggml_tensor * node, const ffn_weight & w, ffn_session & session, int n_threads);
    bool        completes(const ggml_tensor * node, const ffn_weight & w) const;
    bool        group_columns(const ggml_tensor * node, int64_t n_set);
    void        diagnose(const ffn_call & call, int32_t il, ffn_session & session, int n_threads);
    void        make_calls(int32_t il, ffn_session & session);

    struct column_group {
        std::vector<const float *> x;
        std::vector<float *>       y;
    };

    // x is copied when gate or up is seen: its memory may be reused before `down`, and
    // `down` may be written over it
    std::vector<float>        x_;
    int64_t                   n_embd_ = 0, n_tokens_ = 0;
    const ffn_weight *        first_   = nullptr; // gate or up of the open block
    uint64_t                  i_batch_ = 0;       // the batch it belongs to
    std::vector<column_group> groups_;            // per expert
    ffn_workspace             ws_;
    std::vector<ffn_call>     calls_; // of the experts that have columns
    std::vector<uint8_t>      mask_;  // [n, n_ff] over all calls, and [n_ff]: used by diagnosis alone
    std::vector<float>        act_;
};

} // namespace ggml_sparse
