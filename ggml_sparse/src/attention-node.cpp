#include "attention-node.h"

#include "attention.h"
#include "cpu/attention.h"
#include "lineage.h"

#include <cstring>

namespace ggml_sparse {

enum source { Q, K, V, MASK, SINKS };

static float parameter(const ggml_tensor * op, int i) { // 0 scale, 1 max_bias, 2 logit_softcap
    float f;
    std::memcpy(&f, op->op_params + i, sizeof(f));
    return f;
}

static bool is_head(const ggml_tensor * t, int64_t n_sequence) {
    const int64_t block = ggml_blck_size(t->type);
    return attention_type_supported(t->type) && t->ne[0] % ATTENTION_ALIGN == 0 && t->ne[0] % block == 0 &&
           t->nb[0] == ggml_type_size(t->type) && t->ne[3] == n_sequence;
}

static bool is_mask(const ggml_tensor * mask, int64_t n_kv, int64_t n_token, int64_t n_sequence) {
    return mask && mask->type == GGML_TYPE_F16 && mask->nb[0] == sizeof(ggml_fp16_t) && mask->ne[0] == n_kv && mask->ne[1] >= n_token &&
           mask->ne[2] == 1 && (mask->ne[3] == 1 || mask->ne[3] == n_sequence);
}

bool attention_supports(const ggml_tensor * op) {
    if (op->op != GGML_OP_FLASH_ATTN_EXT || op->src[SINKS] || parameter(op, 1) != 0 || parameter(op, 2) != 0) {
        return false;
    }
    const ggml_tensor *q = op->src[Q], *k = op->src[K], *v = op->src[V];
    const bool         fit = q->type == GGML_TYPE_F32 && k->ne[2] == v->ne[2] && k->ne[1] == v->ne[1] && q->ne[2] % k->ne[2] == 0;
    return fit && is_head(q, q->ne[3]) && is_head(k, q->ne[3]) && is_head(v, q->ne[3]) &&
           is_mask(op->src[MASK], k->ne[1], q->ne[1], q->ne[3]) && is_of_our_model(q);
}

static attention_tensor strided(const ggml_tensor * t, int token, int head) { return {t->data, t->nb[token], t->nb[head], t->nb[3]}; }

void attention_run_node(const ggml_tensor * op, int n_threads, ggml_sparse_isa isa, ffn_workspace & ws) {
    const ggml_tensor *q = op->src[Q], *k = op->src[K], *v = op->src[V], *mask = op->src[MASK];
    attention_work     work{};
    work.type_k        = k->type;
    work.type_v        = v->type;
    work.d_k           = k->ne[0];
    work.d_v           = v->ne[0];
    work.n_head        = q->ne[2];
    work.n_head_kv     = k->ne[2];
    work.n_token       = q->ne[1];
    work.n_kv          = k->ne[1];
    work.n_sequence    = q->ne[3];
    work.scale         = parameter(op, 0);
    work.q             = strided(q, 1, 2);
    work.k             = strided(k, 1, 2);
    work.v             = strided(v, 1, 2);
    work.out           = strided(op, 2, 1); // {d_v, n_head, n_token, n_sequence}
    work.mask          = strided(mask, 1, 2);
    work.mask.sequence = mask->ne[3] == 1 ? 0 : mask->nb[3];
    attention_run(work, n_threads, isa, ws);
}

} // namespace ggml_sparse
