#include "block.h"

#include "diagnose.h"

#include <cstring>

namespace ggml_sparse {

static ggml_status refuse(ffn_session & session, const ggml_tensor * node, const char * why) {
    session.failure = std::string("FFN block not recognised at node ") + node->name + " (" + ggml_op_name(node->op) + "): " + why;
    return GGML_STATUS_FAILED;
}

static bool is_product(const ggml_tensor * t) { return t && (t->op == GGML_OP_MUL_MAT || t->op == GGML_OP_MUL_MAT_ID); }

static bool same_layer(const ffn_weight & a, const ffn_weight & b) { return a.spec == b.spec && a.il == b.il; }

ggml_status ffn_block::take(const ggml_tensor * node, ffn_session & session, int n_threads) {
    if (i_batch_ != session.i_batch) { // a cancelled batch may have left a block open
        first_   = nullptr;
        i_batch_ = session.i_batch;
    }
    if (node->op == GGML_OP_GLU) { // checked when `down` closes the block
        return GGML_STATUS_SUCCESS;
    }
    const ffn_weight * w = is_product(node) ? find_weight(node->src[0]) : nullptr;
    if (!w || w->spec != &session.spec) {
        return refuse(session, node, "not a product with an FFN weight of this model");
    }
    if (w->role != ffn_role::down) {
        return capture(node, *w, session) ? GGML_STATUS_SUCCESS : refuse(session, node, "x must be contiguous F32 rows in host memory");
    }
    if (!completes(node, *w)) {
        return refuse(session, node, "expected down(GLU(gate(x), up(x))) of one layer, seen in that order");
    }
    return down(node, *w, session, n_threads);
}

// x: {n_embd, n_tokens} of a dense FFN, {n_embd, 1, n_tokens} of a mixture.
bool ffn_block::capture(const ggml_tensor * node, const ffn_weight & w, ffn_session & session) {
    const ggml_tensor * x      = node->src[1];
    const bool          expert = node->op == GGML_OP_MUL_MAT_ID;
    if (x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) || x->ne[0] != session.spec.info.n_embd || x->ne[3] != 1) {
        return false;
    }
    if (x->ne[expert ? 1 : 2] != 1 || (x->buffer && !ggml_backend_buffer_is_host(x->buffer))) {
        return false;
    }
    if (first_ && same_layer(*first_, w) && first_->role != w.role) {
        return true; // the other branch of the open block: same x
    }
    first_    = &w;
    n_embd_   = x->ne[0];
    n_tokens_ = x->ne[expert ? 2 : 1];
    x_.resize(size_t(n_embd_ * n_tokens_));
    for (int64_t t = 0; t < n_tokens_; ++t) {
        const char * row = static_cast<const char *>(x->data) + size_t(t) * x->nb[expert ? 2 : 1];
        std::memcpy(&x_[size_t(t * n_embd_)], row, size_t(n_embd_) * sizeof(float));
    }
    return true;
}

bool ffn_block::completes(const ggml_tensor * node, const ffn_weight & w) const {
    const ggml_tensor * glu = node->src[1];
    if (!first_ || !same_layer(*first_, w) || !glu || glu->op != GGML_OP_GLU || !is_product(glu->src[0]) || !is_product(glu->src[1])) {
        return false;
    }
    const ffn_weight * gate    = find_weight(glu->src[0]->src[0]);
    const ffn_weight * up      = find_weight(glu->src[1]->src[0]);
    const bool         swapped = glu->op_params[1] != 0;
    return gate && up && same_layer(*gate, w) && same_layer(*up, w) && gate->role == ffn_role::gate && up->role == ffn_role::up &&
           ggml_get_glu_op(glu) == GGML_GLU_OP_SWIGLU && !swapped;
}

// Which columns each expert computes; a dense FFN is one expert with every token.
bool ffn_block::group_columns(const ggml_tensor * node, int64_t n_set) {
    groups_.assign(size_t(n_set), {});
    const ggml_tensor * ids    = node->src[2];
    const int64_t       n_used = ids ? ids->ne[0] : 1;
    for (int64_t t = 0; t < n_tokens_; ++t) {
        for (int64_t u = 0; u < n_used; ++u) {
            int32_t e = 0;
            if (ids) {
                std::memcpy(&e, static_cast<const char *>(ids->data) + size_t(t) * ids->nb[1] + size_t(u) * ids->nb[0], sizeof(e));
            }
            if (e < 0 || e >= n_set) {
                return false;
            }
            char * y =
                static_cast<char *>(node->data) + (ids ? size_t(t) * node->nb[2] + size_t(u) * node->nb[1] : size_t(t) * node->nb[1]);
            groups_[size_t(e)].x.push_back(&x_[size_t(t * n_embd_)]);
            groups_[size_t(e)].y.push_back(reinterpret_cast<float *>(y));
        }
    }
    return true;
}

void ffn_block::diagnose(const ffn_call & call, int32_t il, ffn_session & session, int n_threads) {
    const int64_t n_ff = call.ffn.up.n_row;
    uint64_t &    seen = session.diagnose_seen[size_t(il)];
    act_.resize(size_t(n_ff));
    for (int64_t c = 0; c < call.cols.n; ++c, ++seen) {
        if (seen % uint64_t(session.diagnose_every) == 0) {
            diagnose_column(call.ffn, *session.kernels, n_threads, call.cols.x[c], call.mask + c * n_ff, act_.data(),
                            session.diagnosis[size_t(il)]);
        }
    }
}

void ffn_block::make_calls(int32_t il, ffn_session & session) {
    const int64_t n_ff = session.spec.info.n_ff;
    int64_t       n    = 0;
    calls_.clear();
    for (const column_group & g : groups_) {
        n += int64_t(g.x.size());
    }
    mask_.resize(session.diagnose_every > 0 ? size_t(n * n_ff) : 0);
    n = 0;
    for (int64_t e = 0; e < session.n_set(); ++e) {
        const column_group & g = groups_[size_t(e)];
        if (g.x.empty()) {
            continue;
        }
        ffn_call call{session.ffn(il, e), {int64_t(g.x.size()), g.x.data(), g.y.data()}};
        if (!session.profile_counts.empty()) {
            call.profile = &session.profile_counts[size_t(il)][size_t(e * n_ff)];
            session.profile_columns[size_t(il)][size_t(e)] += uint64_t(call.cols.n);
        }
        call.mask = mask_.empty() ? nullptr : mask_.data() + n * n_ff;
        n += call.cols.n;
        calls_.push_back(call);
    }
}

ggml_status ffn_block::down(const ggml_tensor * node, const ffn_weight & w, ffn_session & session, int n_threads) {
    first_ = nullptr;
    if (n_tokens_ != node->ne[node->op == GGML_OP_MUL_MAT_ID ? 2 : 1] || node->type != GGML_TYPE_F32) {
        return refuse(session, node, "another number of tokens than gate and up had");
    }
    const int64_t n_set = session.n_set();
    if ((node->op == GGML_OP_MUL_MAT_ID) != (session.spec.info.n_expert > 0) || !group_columns(node, n_set)) {
        return refuse(session, node, "expert ids outside [0, n_expert)");
    }
    make_calls(w.il, session);
    if (!ffn_run(calls_, {n_threads, session.kernels, &session.cancel}, ws_, session.layers[size_t(w.il)], session.times)) {
        session.stopping(); // the host is about to complain
        return GGML_STATUS_ABORTED;
    }
    for (const ffn_call & call : calls_) {
        if (session.diagnose_every > 0) {
            diagnose(call, w.il, session, n_threads);
        }
    }
    return GGML_STATUS_SUCCESS;
}

} // namespace ggml_sparse
