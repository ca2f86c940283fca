#include "lineage.h"

#include "buffer.h"

namespace ggml_sparse {

static bool is_our_matrix(const ggml_tensor * t) { return find_weight(t) || find_matrix(t).type >= 0; }

// The chain of first sources ends at a product or a look-up; norms and residuals lie between, a few nodes.
bool is_of_our_model(const ggml_tensor * t) {
    constexpr int DEEPEST = 32;
    for (int depth = 0; t && depth < DEEPEST; ++depth, t = t->src[0]) {
        switch (t->op) {
            case GGML_OP_MUL_MAT:
            case GGML_OP_MUL_MAT_ID: return is_our_matrix(t->src[0]);
            case GGML_OP_NONE: return false;
            default: break;
        }
        if (t->op == GGML_OP_GET_ROWS && is_our_matrix(t->src[0])) {
            return true;
        }
    }
    return false;
}

} // namespace ggml_sparse
