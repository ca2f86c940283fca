#include "context.h"

#include "clock.h"
#include "cpu/attention.h"
#include "cpu/dispatch.h"
#include "error.h"
#include "host.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

using namespace ggml_sparse;

static constexpr size_t k_max_records = 4096;

// --- parameters --------------------------------------------------------------------

static int32_t default_threads() { return int32_t(std::max(1u, std::thread::hardware_concurrency())); }

static ggml_type kv_type(int32_t type) {
    require_argument(type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_Q8_0,
                     "type_k and type_v must be F32, F16 or Q8_0");
    return ggml_type(type);
}

static void check_window(const model_spec & spec, const ggml_sparse_context_params & p) {
    const int32_t window = spec.info.sliding_window;
    if (window == 0 || p.n_ctx <= window || p.ignore_swa) {
        return;
    }
    error e(GGML_SPARSE_ERR_UNSUPPORTED, "A context of " + std::to_string(p.n_ctx) +
                                             " tokens is longer than the checkpoint's sliding window of " + std::to_string(window) +
                                             ", which llama.cpp's llama graph does not have. Ask for at most " + std::to_string(window) +
                                             " tokens (--n-ctx), or accept full attention beyond it with ignore_swa (--ignore-swa).");
    throw e.at("n_ctx").expected("at most " + std::to_string(window)).found(std::to_string(p.n_ctx)).counts(p.n_ctx, window);
}

static ggml_sparse_mode checked_mode(const model_spec & spec, ggml_sparse_mode mode) {
    require_argument(mode >= GGML_SPARSE_MODE_DEFAULT && mode <= GGML_SPARSE_MODE_REFERENCE, "unknown mode");
    if (mode == GGML_SPARSE_MODE_DEFAULT) {
        return spec.info.default_mode;
    }
    if (spec.layers.empty() && mode != GGML_SPARSE_MODE_DENSE) {
        throw error(GGML_SPARSE_ERR_UNSUPPORTED, "The file is no TurboSparse model: stock llama.cpp computes every neuron.")
            .at("mode")
            .expected("dense");
    }
    if (mode == GGML_SPARSE_MODE_PREDICTED && !spec.info.has_predictor) {
        throw error(GGML_SPARSE_ERR_UNSUPPORTED, "Mode predicted needs predictors, and this file has none: use exact.")
            .at("mode")
            .expected("exact or dense")
            .found("predicted");
    }
    return mode;
}

static ggml_sparse_context_params filled_in(const model_spec & spec, ggml_sparse_context_params p) {
    require_argument(p.n_ctx >= 0 && p.n_batch >= 1 && p.n_ubatch >= 1 && p.n_threads >= 0,
                     "n_ctx, n_batch, n_ubatch and n_threads must not be negative");
    require_argument(p.flash_attn >= -1 && p.flash_attn <= 1, "flash_attn must be -1, 0 or 1");
    require_argument(p.n_threads <= 512, "n_threads must be at most 512");
    require_argument(p.n_seq_max >= 1 && p.n_seq_max <= 64, "n_seq_max must be from 1 to 64");
    p.n_ctx = p.n_ctx ? p.n_ctx : spec.info.n_ctx_train;
    require_argument(p.n_seq_max == 1 || int64_t(p.n_seq_max) * GGML_PAD(int64_t(p.n_ctx), 256) <= INT32_MAX,
                     "n_seq_max times n_ctx must stay below 2^31 tokens");
    p.n_threads = p.n_threads ? p.n_threads : default_threads();
    p.n_batch   = std::min(p.n_batch, p.n_ctx);
    p.n_ubatch  = std::min(p.n_ubatch, p.n_batch);
    check_window(spec, p);
    return p;
}

// Our own attention reads any KV type but F32, which libllama would round to F16 for it at every token. AUTO would not
// keep it: libllama wants the node on the layer's device, and it is on ours. Quantised V needs it in any case.
static llama_flash_attn_type flash_attention(const model_spec & spec, const ggml_sparse_context_params & p) {
    if (p.flash_attn != LLAMA_FLASH_ATTN_TYPE_AUTO || spec.layers.empty() || spec.info.n_embd / spec.info.n_head % ATTENTION_ALIGN != 0) {
        return llama_flash_attn_type(p.flash_attn);
    }
    const bool exact = p.type_k == GGML_TYPE_F32 || p.type_v == GGML_TYPE_F32;
    return exact && !ggml_is_quantized(kv_type(p.type_v)) ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
}

static llama_context_params host_params(const model_spec & spec, const ggml_sparse_context_params & p, ffn_session & session) {
    llama_context_params h = llama_context_default_params();
    // libllama rounds what one of several sequences gets up to 256 cells
    h.n_ctx               = uint32_t(p.n_seq_max == 1 ? p.n_ctx : p.n_seq_max * GGML_PAD(p.n_ctx, 256));
    h.n_batch             = uint32_t(p.n_batch);
    h.n_ubatch            = uint32_t(p.n_ubatch);
    h.n_seq_max           = uint32_t(p.n_seq_max);
    h.kv_unified          = false;
    h.n_threads           = p.n_threads;
    h.n_threads_batch     = p.n_threads;
    h.flash_attn_type     = flash_attention(spec, p);
    h.type_k              = kv_type(p.type_k);
    h.type_v              = kv_type(p.type_v);
    h.abort_callback      = session_cancelled;
    h.abort_callback_data = &session;
    h.no_perf             = true;
    return h;
}

// --- life --------------------------------------------------------------------------

ggml_sparse_context::ggml_sparse_context(ggml_sparse_model & model, const ggml_sparse_context_params & params)
    : model(model), session(model.spec) {
    const ggml_sparse_context_params p = filled_in(model.spec, params);
    set_mode(p.mode);
    session.kernels = sparse_kernels_get(p.isa);
    require_argument(session.kernels != nullptr, "this CPU cannot run the instruction set asked for");

    host_log_scope log;
    llama.reset(llama_init_from_model(model.llama.get(), host_params(model.spec, p, session)));
    if (!llama) {
        throw error(GGML_SPARSE_ERR_BACKEND,
                    "libllama could not make a context of " + std::to_string(p.n_ctx) + " tokens: " + log.errors());
    }
    n_ctx     = p.n_ctx;
    n_batch   = p.n_batch;
    n_seq_max = p.n_seq_max;
}

void ggml_sparse_context::llama_deleter::operator()(llama_context * c) const {
    host_log_scope log; // it reports its buffers once more
    llama_free(c);
}

void ggml_sparse_context::set_mode(ggml_sparse_mode mode) { session.mode = checked_mode(model.spec, mode); }

// --- evaluation ----------------------------------------------------------------------

static void add(ggml_sparse_layer_stats & sum, const ggml_sparse_layer_stats & l) {
    sum.n_neuron += l.n_neuron;
    sum.n_selected += l.n_selected;
    sum.n_active += l.n_active;
    sum.rows_gate += l.rows_gate;
    sum.rows_up += l.rows_up;
    sum.rows_down += l.rows_down;
    sum.bytes_ffn += l.bytes_ffn;
    sum.bytes_predictor += l.bytes_predictor;
}

// What libllama reads of its own weights for one batch: all of them but unused embedding rows.
static uint64_t rest_bytes(const ggml_sparse_model & model, int32_t n_tokens) {
    const gguf_tensor_info & embd = *model.file.find_tensor("token_embd.weight");
    const uint64_t           rows = embd.nbytes / uint64_t(model.spec.info.n_vocab) * uint64_t(std::min(n_tokens, model.spec.info.n_vocab));
    return model.spec.tied ? model.spec.info.bytes_rest : model.spec.info.bytes_rest - embd.nbytes + rows;
}

void ggml_sparse_context::record(int32_t n_tokens, uint64_t ns_total) {
    ggml_sparse_stats s{};
    s.i_eval   = n_evals++;
    s.n_tokens = n_tokens;
    s.mode     = session.mode;
    for (const auto & l : session.layers) {
        add(s.total, l);
    }
    s.bytes_rest = rest_bytes(model, n_tokens);
    s.ns_select  = session.times.ns_select;
    s.ns_gate_up = session.times.ns_gate_up;
    s.ns_down    = session.times.ns_down;
    s.ns_total   = ns_total;
    records.push_back(s);
    if (records.size() > k_max_records) {
        records.pop_front();
    }
}

// llama_decode returns 0 done, 1 no room in the KV cache, 2 aborted, below 0 failed.
void ggml_sparse_context::check_decode(int32_t rc) const {
    switch (rc) {
        case 0: return;
        case 1: throw error(GGML_SPARSE_ERR_CONTEXT, "The KV cache has no room for the batch.");
        case 2: throw error(GGML_SPARSE_ERR_CANCELLED, "The evaluation was cancelled.");
        default:
            throw error(GGML_SPARSE_ERR_BACKEND, "libllama could not evaluate the batch (" + std::to_string(rc) + "). " + session.failure);
    }
}

// libllama makes copies of sequences with the next batch, and says so at length.
int32_t ggml_sparse_context::decode_quietly(const llama_batch & batch) {
    if (!copying) {
        return llama_decode(llama.get(), batch);
    }
    const host_log_scope log;
    copying = false;
    return llama_decode(llama.get(), batch);
}

// One llama_decode call, timed and, if it succeeds, recorded. Returns what it returned.
int32_t ggml_sparse_context::run(const llama_batch & batch) {
    row_has_logits.clear();
    session.start_batch();
    const uint64_t begin = now_ns();
    const int32_t  rc    = decode_quietly(batch);
    session.end_batch();
    if (rc == 0) {
        record(batch.n_tokens, now_ns() - begin);
    }
    return rc;
}

// tokens[n_tokens], appended to sequence 0 at n_past.
void ggml_sparse_context::decode(const int32_t * tokens, int32_t n_tokens, bool all_logits, bool last) {
    std::vector<llama_token> ids(tokens, tokens + n_tokens);
    std::vector<int8_t>      wanted(size_t(n_tokens), all_logits);
    wanted.back() |= last;
    llama_batch batch{};
    batch.n_tokens = n_tokens;
    batch.token    = ids.data();
    batch.logits   = wanted.data();

    const int32_t rc = run(batch);
    if (rc != 0) {
        llama_memory_seq_rm(llama_get_memory(llama.get()), 0, n_past, -1);
    }
    check_decode(rc);
    n_past += n_tokens;
}

void ggml_sparse_context::copy_logits(int32_t n_tokens, float * logits) const {
    const size_t n_vocab = size_t(model.spec.info.n_vocab);
    for (int32_t i = 0; i < n_tokens; ++i) {
        std::memcpy(logits + size_t(i) * n_vocab, llama_get_logits_ith(llama.get(), i), n_vocab * sizeof(float));
    }
}

// Against the vocabulary, and against the room behind n_past.
void ggml_sparse_context::check_tokens(const int32_t * tokens, int32_t n_tokens) const {
    require_argument(tokens && n_tokens > 0, "at least one token is needed");
    for (int32_t i = 0; i < n_tokens; ++i) {
        require_argument(tokens[i] >= 0 && tokens[i] < model.spec.info.n_vocab, "token outside [0, n_vocab)");
    }
    if (int64_t(n_past) + n_tokens > n_ctx) {
        error e(GGML_SPARSE_ERR_CONTEXT, "The sequence would be " + std::to_string(int64_t(n_past) + n_tokens) +
                                             " tokens long, but the context holds " + std::to_string(n_ctx) +
                                             ". Raise n_ctx or shorten the text; nothing is ever truncated.");
        throw e.at("n_ctx").counts(int64_t(n_past) + n_tokens, n_ctx);
    }
}

void ggml_sparse_context::eval(const int32_t * tokens, int32_t n_tokens, float * logits) {
    const flag_reset reset{session.cancel};
    check_tokens(tokens, n_tokens);
    const size_t n_vocab = size_t(model.spec.info.n_vocab);
    for (int32_t i = 0; i < n_tokens; i += n_batch) {
        const int32_t n = std::min(n_batch, n_tokens - i);
        has_logits      = false;
        // libllama prunes the last layer to the columns whose logits are wanted: a profile wants all
        decode(tokens + i, n, logits != nullptr || !session.profile_counts.empty() || session.diagnose_every > 0, i + n == n_tokens);
        if (logits) {
            copy_logits(n, logits + size_t(i) * n_vocab);
        }
    }
    has_logits = true;
}

// While alive, llama_decode also keeps hidden states, and the sequence is one of its own.
struct embedding_scope {
    explicit embedding_scope(ggml_sparse_context & context) : context(context) {
        context.truncate(0);
        set(true);
    }
    ~embedding_scope() {
        set(false);
        llama_memory_seq_rm(llama_get_memory(context.llama.get()), 0, 0, -1);
        context.n_past     = 0;
        context.has_logits = false;
    }
    void set(bool value) const {
        const host_log_scope log; // it reports the switch
        llama_set_embeddings(context.llama.get(), value);
    }
    ggml_sparse_context & context;
};

void ggml_sparse_context::embed(const int32_t * tokens, int32_t n_tokens, float * states) {
    const flag_reset      reset{session.cancel};
    const embedding_scope scope(*this);
    check_tokens(tokens, n_tokens);
    const size_t n_embd = size_t(model.spec.info.n_embd);
    for (int32_t i = 0; i < n_tokens; i += n_batch) {
        const int32_t n = std::min(n_batch, n_tokens - i);
        decode(tokens + i, n, true, true);
        for (int32_t j = 0; j < n; ++j) {
            std::memcpy(states + size_t(i + j) * n_embd, llama_get_embeddings_ith(llama.get(), j), n_embd * sizeof(float));
        }
    }
}

void ggml_sparse_context::truncate(int32_t n) {
    require_argument(n >= 0 && n <= n_past, "truncate: n_past is larger than the sequence");
    if (!llama_memory_seq_rm(llama_get_memory(llama.get()), 0, n, -1)) {
        throw error(GGML_SPARSE_ERR_BACKEND, "libllama could not shorten the sequence.");
    }
    n_past     = n;
    has_logits = false;
}

// --- C API ---------------------------------------------------------------------------

ggml_sparse_context_params ggml_sparse_context_default_params(void) noexcept {
    return {0, 2048, 512, 0, GGML_TYPE_F16, GGML_TYPE_F16, -1, GGML_SPARSE_MODE_DEFAULT, GGML_SPARSE_ISA_AUTO, false, 1};
}

ggml_sparse_status ggml_sparse_context_create(ggml_sparse_model * model, const ggml_sparse_context_params * params,
                                              ggml_sparse_context ** ctx, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(model && params && ctx, "ggml_sparse_context_create: NULL argument");
        *ctx = nullptr;
        *ctx = new ggml_sparse_context(*model, *params);
    });
}

void ggml_sparse_context_free(ggml_sparse_context * ctx) noexcept { delete ctx; }

ggml_sparse_status ggml_sparse_context_set_mode(ggml_sparse_context * ctx, ggml_sparse_mode mode, ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->set_mode(mode); });
}

ggml_sparse_status ggml_sparse_context_shift_threshold(ggml_sparse_context * ctx, float shift, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(std::isfinite(shift), "the threshold's shift must be finite");
        ctx->session.threshold_shift = shift;
    });
}

ggml_sparse_mode ggml_sparse_context_get_mode(const ggml_sparse_context * ctx) noexcept { return ctx->session.mode; }

ggml_sparse_status ggml_sparse_context_set_threads(ggml_sparse_context * ctx, int32_t n_threads, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(n_threads >= 0 && n_threads <= 512, "n_threads must be from 0 to 512");
        const int32_t n = n_threads ? n_threads : default_threads();
        llama_set_n_threads(ctx->llama.get(), n, n);
    });
}

int32_t ggml_sparse_context_n_ctx(const ggml_sparse_context * ctx) noexcept { return ctx->n_ctx; }

int32_t ggml_sparse_context_n_past(const ggml_sparse_context * ctx) noexcept { return ctx->n_past; }

ggml_sparse_status ggml_sparse_context_eval(ggml_sparse_context * ctx, const int32_t * tokens, int32_t n_tokens, float * logits,
                                            ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->eval(tokens, n_tokens, logits); });
}

ggml_sparse_status ggml_sparse_context_embed(ggml_sparse_context * ctx, const int32_t * tokens, int32_t n_tokens, float * states,
                                             ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->embed(tokens, n_tokens, states); });
}

const float * ggml_sparse_context_last_logits(ggml_sparse_context * ctx) noexcept {
    return ctx->has_logits ? llama_get_logits_ith(ctx->llama.get(), -1) : nullptr;
}

ggml_sparse_status ggml_sparse_context_truncate(ggml_sparse_context * ctx, int32_t n_past, ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->truncate(n_past); });
}

void ggml_sparse_context_cancel(ggml_sparse_context * ctx) noexcept { ctx->session.cancel = true; }

int32_t ggml_sparse_context_read_stats(ggml_sparse_context * ctx, ggml_sparse_stats * records, int32_t n_max) noexcept {
    const int32_t n = int32_t(std::min<size_t>(ctx->records.size(), size_t(std::max(n_max, 0))));
    std::copy_n(ctx->records.begin(), n, records);
    ctx->records.erase(ctx->records.begin(), ctx->records.begin() + n);
    return n;
}

void ggml_sparse_context_layer_stats(const ggml_sparse_context * ctx, ggml_sparse_layer_stats * layers) noexcept {
    std::copy(ctx->session.layers.begin(), ctx->session.layers.end(), layers);
}

ggml_sparse_status ggml_sparse_context_profile(ggml_sparse_context * ctx, bool enable, ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->session.profile(enable); });
}

ggml_sparse_status ggml_sparse_context_diagnose(ggml_sparse_context * ctx, int32_t every, ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(every >= 0, "every must be 0 or more");
        ctx->session.diagnose(every);
    });
}

void ggml_sparse_context_diagnosis(const ggml_sparse_context * ctx, ggml_sparse_layer_diagnosis * layers) noexcept {
    std::copy(ctx->session.diagnosis.begin(), ctx->session.diagnosis.end(), layers);
}

ggml_sparse_status ggml_sparse_context_profile_read(const ggml_sparse_context * ctx, int32_t il, uint64_t * counts, uint64_t * columns,
                                                    ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        const ffn_session & s = ctx->session;
        require_argument(!s.profile_counts.empty(), "profiling is off");
        require_argument(il >= 0 && il < s.spec.info.n_layer, "layer index outside [0, n_layer)");
        std::copy(s.profile_counts[size_t(il)].begin(), s.profile_counts[size_t(il)].end(), counts);
        std::copy(s.profile_columns[size_t(il)].begin(), s.profile_columns[size_t(il)].end(), columns);
    });
}
