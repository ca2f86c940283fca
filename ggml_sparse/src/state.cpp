// The KV cache of the sequence as bytes, in libllama's own format.

#include "context.h"
#include "error.h"
#include "host.h"

using namespace ggml_sparse;

static void state_set(ggml_sparse_context & ctx, const uint8_t * src, size_t size) {
    host_log_scope log;
    ctx.truncate(0);
    const size_t read = llama_state_seq_set_data(ctx.llama.get(), src, size, 0);
    if (read != size) {
        ctx.truncate(0);
        throw error(GGML_SPARSE_ERR_ARGUMENT,
                    "The state does not fit this context (model, n_ctx, KV types, flash attention): " + log.errors());
    }
    ctx.n_past = llama_memory_seq_pos_max(llama_get_memory(ctx.llama.get()), 0) + 1;
}

size_t ggml_sparse_context_state_size(ggml_sparse_context * ctx) noexcept { return llama_state_seq_get_size(ctx->llama.get(), 0); }

ggml_sparse_status ggml_sparse_context_state_get(ggml_sparse_context * ctx, uint8_t * dst, size_t size, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(dst && size >= ggml_sparse_context_state_size(ctx), "state_get: the buffer is smaller than the state");
        if (llama_state_seq_get_data(ctx->llama.get(), dst, size, 0) == 0) {
            throw error(GGML_SPARSE_ERR_BACKEND, "libllama could not write the state of the sequence.");
        }
    });
}

ggml_sparse_status ggml_sparse_context_state_set(ggml_sparse_context * ctx, const uint8_t * src, size_t size,
                                                 ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(src && size > 0, "state_set: no state");
        state_set(*ctx, src, size);
    });
}
