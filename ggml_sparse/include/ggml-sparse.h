#ifndef GGML_SPARSE_H
#define GGML_SPARSE_H

// ggml-sparse: activation-sparse FFNs for stock llama.cpp.
//
// This header is all that a host program, cffi included, may see of the library.
// It has four parts: errors and library state, models and contexts, sampling and
// text, and the sparse operators on their own.
//
// Conventions
//  - Every function is noexcept. What can fail returns a ggml_sparse_status and,
//    when `err` is not NULL, fills it with a sentence and the data behind it.
//  - Shapes are written as in ggml, fastest dimension first: {n_embd, n_ff}.
//    Flat C arrays are written row-major, slowest dimension first: [n_tokens, n_vocab].
//  - Strings are UTF-8. Sizes are bytes, times are nanoseconds unless said otherwise.
//  - A handle belongs to one thread at a time, but for ggml_sparse_context_cancel,
//    which any thread may call. Different handles are independent of each other.
//  - A model must outlive its contexts and samplers.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#    define GGML_SPARSE_API __attribute__((visibility("default")))
#else
#    define GGML_SPARSE_API
#endif

#ifdef __cplusplus
#    define GGML_SPARSE_NOEXCEPT noexcept
extern "C" {
#else
#    define GGML_SPARSE_NOEXCEPT
#endif

// ---------------------------------------------------------------------------
// Errors and library state
// ---------------------------------------------------------------------------

enum ggml_sparse_status {
    GGML_SPARSE_OK              = 0,
    GGML_SPARSE_ERR_ARGUMENT    = 1,  // a parameter outside its documented range
    GGML_SPARSE_ERR_FILE        = 2,  // a file that cannot be opened, read or mapped
    GGML_SPARSE_ERR_FORMAT      = 3,  // a file that breaks docs/gguf-extension.md
    GGML_SPARSE_ERR_UNSUPPORTED = 4,  // a sound file that needs what this build lacks
    GGML_SPARSE_ERR_HOST        = 5,  // host library of another version or CPU, or self-test failed
    GGML_SPARSE_ERR_MEMORY      = 6,  // `needed` and `available` hold bytes
    GGML_SPARSE_ERR_CONTEXT     = 7,  // `needed` tokens do not fit `available`
    GGML_SPARSE_ERR_CANCELLED   = 8,  // ggml_sparse_context_cancel was called
    GGML_SPARSE_ERR_GRAMMAR     = 9,  // GBNF that does not parse
    GGML_SPARSE_ERR_BACKEND     = 10, // libllama or ggml reported a failure
};

struct ggml_sparse_error {
    enum ggml_sparse_status status;
    char    message[1024]; // one paragraph: what, where, expected, found, what to do
    char    where[256];    // the file, tensor or key at fault, or ""
    char    expected[128]; // or ""
    char    found[128];    // or ""
    int64_t needed;        // see the status; 0 where it has no meaning
    int64_t available;
};

// Library version, "0.1.0".
GGML_SPARSE_API const char * ggml_sparse_version(void) GGML_SPARSE_NOEXCEPT;

// ggml version this build is made for ("0.25.3") and the one it found in the process.
GGML_SPARSE_API const char * ggml_sparse_built_for(void) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API const char * ggml_sparse_host_version(void) GGML_SPARSE_NOEXCEPT;

// Check the host's version and CPU, register the backend with ggml and run the
// self-test (a one-layer model against a scalar reference). Idempotent and cheap
// after the first call; every function that needs it calls it.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_init(struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;


// The host writes its own log to stderr unless the program says otherwise. This says so: from
// now on it is dropped. For programs that own their process; a library should not call it.
GGML_SPARSE_API void ggml_sparse_silence_host(void) GGML_SPARSE_NOEXCEPT;

// ---------------------------------------------------------------------------
// Models
// ---------------------------------------------------------------------------

enum ggml_sparse_mode {
    GGML_SPARSE_MODE_DEFAULT   = 0, // turbosparse.default_mode of the file
    GGML_SPARSE_MODE_DENSE     = 1, // every neuron; the oracle
    GGML_SPARSE_MODE_EXACT     = 2, // one branch first, the other where it is > 0; equals dense
    GGML_SPARSE_MODE_PREDICTED = 3, // the predictor selects, then as exact
    GGML_SPARSE_MODE_REFERENCE = 4, // scalar, double accumulation, slow; predicted if
                                    // the predictor exists and the default mode is predicted, else exact
};

enum ggml_sparse_activation {
    GGML_SPARSE_DRELU = 0, // relu(gate) * relu(up)   (arXiv 2406.05955, section 3.2)
    GGML_SPARSE_REGLU = 1, // relu(gate) * up         (ReluLLaMA, ProSparse)
    GGML_SPARSE_RELU  = 2, // relu(up), no gate tensor
};

enum ggml_sparse_isa {
    GGML_SPARSE_ISA_AUTO    = 0, // the best that this CPU can run
    GGML_SPARSE_ISA_GENERIC = 1, // portable C
    GGML_SPARSE_ISA_AVX2    = 2,
    GGML_SPARSE_ISA_AVX512  = 3, // with VNNI
    GGML_SPARSE_ISA_AVXVNNI = 4, // AVX2 with 256-bit VNNI
    GGML_SPARSE_ISA_NEON    = 5, // with dot products
};

struct ggml_sparse_model;
struct ggml_sparse_context;
struct ggml_sparse_sampler;

struct ggml_sparse_model_info {
    uint32_t version;             // turbosparse.version
    char     base_architecture[32];
    enum ggml_sparse_activation activation;
    enum ggml_sparse_mode       default_mode; // never DEFAULT
    bool     hot_first;
    bool     has_predictor;       // at least one layer has one
    int32_t  n_layer, n_embd, n_ff, n_head, n_head_kv;
    int32_t  n_expert, n_expert_used;         // 0, 0 for a dense FFN
    int32_t  n_vocab, n_ctx_train;
    int32_t  sliding_window;                  // 0 = none
    int32_t  token_bos, token_eos, token_eot; // -1 = none
    bool     add_bos;
    uint64_t bytes_file;
    uint64_t bytes_ffn;           // gate, up, down_t of all layers and experts
    uint64_t bytes_predictor;     // fc1, fc2 and the tap's scale
    uint64_t bytes_rest;          // everything else that is a weight
    uint64_t bytes_dense_token;   // what a dense graph reads for one token: rest without the
                                  // embedding rows that are not looked up, FFN of n_expert_used experts
    uint64_t ffn_bytes_read_at_load; // counted in the view; 0 is the promise
};

struct ggml_sparse_layer_info {
    int32_t rank;         // of the predictor; 0 = none
    float   threshold;    // a neuron is computed iff its logit > threshold
    int32_t first_branch; // 0 gate, 1 up
    int32_t type_gate, type_up, type_down, type_predictor; // enum ggml_type; -1 = no such tensor
    bool    has_frequency; // blk.N.ffn_neuron_freq is in the file
    // How rows lie in memory, see ggml_sparse_model_make_resident.
    int32_t layout_up, layout_down; // enum ggml_sparse_layout
    bool    paired;                 // those of gate and up of one neuron side by side
};

// Map `path`, check it against the contract, build libllama's view and load it.
// check_tensors also scans scales for NaN and Inf (reads the whole file once).
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_model_load(
        const char * path, bool check_tensors,
        struct ggml_sparse_model ** model, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// Any other GGUF file that libllama knows, to be evaluated by stock llama.cpp: every neuron, no
// counters (ggml_sparse_stats hold times only), mode DENSE. It has no layers for get_layer, and n_ff,
// the bytes_ and the expert counts of its info are 0. ERR_UNSUPPORTED for a TurboSparse file and for
// a model that does not generate text.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_model_load_stock(
        const char * path, struct ggml_sparse_model ** model, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API void ggml_sparse_model_free(struct ggml_sparse_model * model) GGML_SPARSE_NOEXCEPT;

// A loaded model is read through the file's mapping: nothing is copied, processes share the pages,
// and a file larger than memory works. Memory of huge pages is read up to half again as fast. This
// call copies the file there and packs what is only multiplied; no tensor's pointer changes. The order of rows is made
// for `mode` (DEFAULT: the file's): PREDICTED wants those of gate and up of one neuron side by side. Contexts may have any
// mode all the same, and get the same bits. Without `force` it does so only when the file is large enough to matter and takes
// at most two thirds of the memory that is available. *resident (or NULL) tells where the weights are afterwards. On an
// error they stay mapped: ERR_MEMORY (needed, available), ERR_FILE. No context of the model may be evaluating meanwhile.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_model_make_resident(
        struct ggml_sparse_model * model, enum ggml_sparse_mode mode, bool force, bool * resident,
        struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

GGML_SPARSE_API void ggml_sparse_model_get_info(
        const struct ggml_sparse_model * model, struct ggml_sparse_model_info * info) GGML_SPARSE_NOEXCEPT;
// ERR_ARGUMENT when il is not in [0, n_layer).
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_model_get_layer(
        const struct ggml_sparse_model * model, int32_t il,
        struct ggml_sparse_layer_info * info, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// Value of a scalar or string key of the file as text; NULL when there is none.
// The pointer lives as long as the model.
GGML_SPARSE_API const char * ggml_sparse_model_meta(
        const struct ggml_sparse_model * model, const char * key) GGML_SPARSE_NOEXCEPT;

// One line per thing in the file that was ignored, "" when there is none.
GGML_SPARSE_API const char * ggml_sparse_model_warnings(const struct ggml_sparse_model * model) GGML_SPARSE_NOEXCEPT;

// ---------------------------------------------------------------------------
// Contexts: one sequence, its KV cache and its counters
// ---------------------------------------------------------------------------

struct ggml_sparse_context_params {
    int32_t n_ctx;      // tokens; 0 = the model's training context
    int32_t n_batch;    // tokens per llama_decode call
    int32_t n_ubatch;   // tokens per graph
    int32_t n_threads;  // 0 = one per hardware thread available to the process
    int32_t type_k, type_v; // enum ggml_type of the KV cache: F32, F16 or Q8_0
    // -1 auto, 0 off, 1 on. On: one attention operator, ours, with F32 sums; off: libllama's products and softmax.
    // Auto is off where K or V is F32, which the operator would see rounded to F16; else, and for a quantised V, which
    // libllama has for the operator alone, on. A model of ggml_sparse_model_load_stock leaves all of it to libllama.
    int32_t flash_attn;
    enum ggml_sparse_mode mode;
    enum ggml_sparse_isa  isa;
    bool    ignore_swa; // allow n_ctx above the checkpoint's sliding window
    int32_t n_seq_max;  // sequences, 1 .. 64; each may hold n_ctx tokens, in cells of its own
};

// n_ctx 0, n_batch 2048, n_ubatch 512, F16 KV, flash attention auto, DEFAULT mode, AUTO isa, 1 sequence.
GGML_SPARSE_API struct ggml_sparse_context_params ggml_sparse_context_default_params(void) GGML_SPARSE_NOEXCEPT;

// ERR_UNSUPPORTED when n_ctx is above the sliding window (needed, available), or PREDICTED is
// asked of a file without predictors.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_create(
        struct ggml_sparse_model * model, const struct ggml_sparse_context_params * params,
        struct ggml_sparse_context ** ctx, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API void ggml_sparse_context_free(struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;

GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_set_mode(
        struct ggml_sparse_context * ctx, enum ggml_sparse_mode mode, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_mode ggml_sparse_context_get_mode(const struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;
// Added to the predictor's threshold of every layer from the next evaluation on; 0 at first. Below 0 more
// neurons pass: fewer active ones are missed, more rows are computed. ERR_ARGUMENT unless finite.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_shift_threshold(
        struct ggml_sparse_context * ctx, float shift, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_set_threads(
        struct ggml_sparse_context * ctx, int32_t n_threads, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

GGML_SPARSE_API int32_t ggml_sparse_context_n_ctx(const struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API int32_t ggml_sparse_context_n_past(const struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;

// Append `tokens` to the sequence. When `logits` is not NULL it receives [n_tokens, n_vocab];
// otherwise only the last token's logits are computed. After an error n_past is unchanged,
// but for CANCELLED and BACKEND: there it is the number of tokens in whole batches done.
// ERR_CONTEXT when n_past + n_tokens > n_ctx; nothing is ever truncated.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_eval(
        struct ggml_sparse_context * ctx, const int32_t * tokens, int32_t n_tokens,
        float * logits, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// Hidden states after the last norm, which the head would read: `states` receives [n_tokens, n_embd].
// `tokens` is a fresh sequence; whatever the context held is forgotten, and n_past is 0 afterwards.
// ERR_CONTEXT when n_tokens > n_ctx.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_embed(
        struct ggml_sparse_context * ctx, const int32_t * tokens, int32_t n_tokens,
        float * states, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// [n_vocab] of the last token evaluated, NULL before the first; valid until the next eval.
GGML_SPARSE_API const float * ggml_sparse_context_last_logits(struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;

// Keep the first n_past tokens of the sequence, forget the rest. ERR_ARGUMENT if n_past is larger.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_truncate(
        struct ggml_sparse_context * ctx, int32_t n_past, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// The KV cache of the sequence as bytes in libllama's format: for contexts of the same model, KV types
// and flash attention, in this build. set replaces the sequence; last logits are gone afterwards.
// Bytes of other origin are refused with ERR_ARGUMENT as far as libllama notices: do not load strangers'.
GGML_SPARSE_API size_t ggml_sparse_context_state_size(struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_state_get(
        struct ggml_sparse_context * ctx, uint8_t * dst, size_t size, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_state_set(
        struct ggml_sparse_context * ctx, const uint8_t * src, size_t size, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// Make the eval under way, or the next one, return ERR_CANCELLED at its next FFN block. Any thread.
// The flag is cleared when that eval returns.
GGML_SPARSE_API void ggml_sparse_context_cancel(struct ggml_sparse_context * ctx) GGML_SPARSE_NOEXCEPT;

// --- several sequences at once ---
//
// The functions above work on sequence 0; these work on any, and on many in one batch. Sequences
// never see each other. With flash attention on (auto, but for F32 KV) one gets the same bits whatever runs beside it
// and however its tokens are cut into batches. With it off that holds as long as its own tokens come in the same
// batches of more than 8 rows.

struct ggml_sparse_row {
    int32_t token;
    int32_t seq;    // 0 <= seq < n_seq_max; the token is appended to it
    bool    logits; // wanted
};

// One llama_decode call on rows[n_rows], n_rows <= n_batch; the rows of a sequence must stand in order
// and all together. On any error every sequence is as it was before. ERR_CONTEXT when a sequence
// would grow beyond n_ctx.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_decode(
        struct ggml_sparse_context * ctx, const struct ggml_sparse_row * rows, int32_t n_rows,
        struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// [n_vocab] of a row of the last decode; NULL when none were wanted. Valid until the next evaluation.
GGML_SPARSE_API const float * ggml_sparse_context_row_logits(struct ggml_sparse_context * ctx, int32_t i_row) GGML_SPARSE_NOEXCEPT;

// Tokens of a sequence; -1 when there is no such sequence.
GGML_SPARSE_API int32_t ggml_sparse_context_seq_n_past(const struct ggml_sparse_context * ctx, int32_t seq) GGML_SPARSE_NOEXCEPT;

// Keep the first n tokens of a sequence, forget the rest. *kept receives how many it has then: n, or
// 0 where the model's memory cannot be cut at that place (a sliding window, a recurrent state).
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_seq_keep(
        struct ggml_sparse_context * ctx, int32_t seq, int32_t n, int32_t * kept, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// Make sequence `to` equal to sequence `from`.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_seq_copy(
        struct ggml_sparse_context * ctx, int32_t from, int32_t to, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// --- counters: what was done, never what was estimated ----------------------
//
// libllama drops columns whose logits nobody asked for before the last layer's FFN, so a prompt
// evaluated for its last token counts one column there.

struct ggml_sparse_layer_stats {
    uint64_t n_neuron;   // n_ff x FFN columns (a column: one token, for MoE one token and expert)
    uint64_t n_selected; // neurons the predictor let pass (= n_neuron without one)
    uint64_t n_active;   // neurons whose product was not zero
    uint64_t rows_gate, rows_up, rows_down; // rows computed, over all columns
    uint64_t bytes_ffn;       // row bytes of the above
    uint64_t bytes_predictor; // fc1, fc2 bytes, over all columns; of fc2_t the rows read
};

struct ggml_sparse_stats { // one llama_decode batch
    int64_t  i_eval;     // running number in this context
    int32_t  n_tokens;
    enum ggml_sparse_mode mode;
    struct ggml_sparse_layer_stats total; // summed over layers
    uint64_t bytes_rest; // non-FFN weights, read once per batch (derived from tensor sizes)
    uint64_t ns_select, ns_gate_up, ns_down; // wall time inside the FFN blocks
    uint64_t ns_total;   // wall time of the whole llama_decode
};

// Drain up to n_max records, oldest first; returns how many. At most 4096 are kept: the
// oldest are dropped (i_eval then jumps).
GGML_SPARSE_API int32_t ggml_sparse_context_read_stats(
        struct ggml_sparse_context * ctx, struct ggml_sparse_stats * records, int32_t n_max) GGML_SPARSE_NOEXCEPT;
// Counters of the last batch, layer by layer: layers[n_layer].
GGML_SPARSE_API void ggml_sparse_context_layer_stats(
        const struct ggml_sparse_context * ctx, struct ggml_sparse_layer_stats * layers) GGML_SPARSE_NOEXCEPT;

// Profiling: while enabled, count for every stored neuron how often its product was not zero.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_profile(
        struct ggml_sparse_context * ctx, bool enable, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// counts: [max(n_expert, 1), n_ff] in stored order; columns: [max(n_expert, 1)] FFN columns seen.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_profile_read(
        const struct ggml_sparse_context * ctx, int32_t il,
        uint64_t * counts, uint64_t * columns, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// Diagnosis: some FFN columns are also computed in full, to see what the selection missed and which
// branch is zero more often. Slow; results and counters of the evaluation stay what they are.
struct ggml_sparse_layer_diagnosis {
    uint64_t n_column;   // columns computed in full
    uint64_t n_neuron;   // n_ff x n_column
    uint64_t n_gate, n_up; // neurons whose gate, whose up is above 0, whatever the other is
    uint64_t n_active;   // neurons whose product is not zero, selected or not
    uint64_t n_selected; // neurons that were let pass
    uint64_t n_hit;      // both: recall is n_hit / n_active
    double   weight_active, weight_hit; // the same two as sums of |product|
};

// Every n-th column from now on, counting each layer's from zero; 0 = none. Counters start at zero.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_context_diagnose(
        struct ggml_sparse_context * ctx, int32_t every, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// What was seen since: layers[n_layer].
GGML_SPARSE_API void ggml_sparse_context_diagnosis(
        const struct ggml_sparse_context * ctx, struct ggml_sparse_layer_diagnosis * layers) GGML_SPARSE_NOEXCEPT;

// ---------------------------------------------------------------------------
// Memory bandwidth
// ---------------------------------------------------------------------------

// A probe owns n_bytes of memory (huge pages where the system grants them); choose n_bytes far above
// the caches, 1 GiB say. measure reads all of it once, each thread its own parts from end to end: one half with software
// prefetches, the other without; the faster counts, in bytes per second.
struct ggml_sparse_bandwidth;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_bandwidth_create(
        uint64_t n_bytes, struct ggml_sparse_bandwidth ** probe, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API void ggml_sparse_bandwidth_free(struct ggml_sparse_bandwidth * probe) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_bandwidth_measure(
        struct ggml_sparse_bandwidth * probe, int32_t n_threads, double * bytes_per_second,
        struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// ---------------------------------------------------------------------------
// Text and sampling (libllama's tokenizer and samplers)
// ---------------------------------------------------------------------------

// *n receives the number of tokens; when it is above n_max nothing but *n is written.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_tokenize(
        const struct ggml_sparse_model * model, const char * text, int32_t n_text,
        bool add_special, bool parse_special,
        int32_t * tokens, int32_t n_max, int32_t * n, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// Bytes of one token (not null-terminated, may be part of a UTF-8 character).
// `special`: also show control tokens. *n as above.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_token_to_piece(
        const struct ggml_sparse_model * model, int32_t token, bool special,
        char * piece, int32_t n_max, int32_t * n, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// End of generation: eos, eot and their like.
GGML_SPARSE_API bool ggml_sparse_token_is_eog(const struct ggml_sparse_model * model, int32_t token) GGML_SPARSE_NOEXCEPT;

struct ggml_sparse_logit_bias {
    int32_t token;
    float   bias; // added to the token's logit: finite, or -INFINITY for never
};

struct ggml_sparse_sampler_params {
    uint32_t seed;
    float    temp;            // <= 0: greedy, everything below but biases, penalties and grammar is ignored
    int32_t  top_k;           // <= 0: off
    float    top_p;           // >= 1: off
    float    min_p;           // <= 0: off
    int32_t  penalty_last_n;  // 0: off, -1: n_ctx
    float    penalty_repeat;  // 1: off
    float    penalty_freq;    // 0: off
    float    penalty_present; // 0: off
    const char * grammar;     // GBNF with a rule "root", at most 128 KiB and 1024 parentheses deep, or NULL
    const struct ggml_sparse_logit_bias * bias; // [n_bias], copied
    int32_t  n_bias;
};

GGML_SPARSE_API struct ggml_sparse_sampler_params ggml_sparse_sampler_default_params(void) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_sampler_create(
        const struct ggml_sparse_model * model, const struct ggml_sparse_sampler_params * params,
        struct ggml_sparse_sampler ** sampler, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API void ggml_sparse_sampler_free(struct ggml_sparse_sampler * sampler) GGML_SPARSE_NOEXCEPT;
// Draw from the last logits of ctx and accept the token. ERR_ARGUMENT before the first eval.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_sampler_sample(
        struct ggml_sparse_sampler * sampler, struct ggml_sparse_context * ctx,
        int32_t * token, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// The same from the logits of a row of the last ggml_sparse_context_decode.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_sampler_sample_row(
        struct ggml_sparse_sampler * sampler, struct ggml_sparse_context * ctx, int32_t i_row,
        int32_t * token, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// Tell the penalties about a token that was not sampled here (the prompt).
GGML_SPARSE_API void ggml_sparse_sampler_accept(struct ggml_sparse_sampler * sampler, int32_t token) GGML_SPARSE_NOEXCEPT;

// ---------------------------------------------------------------------------
// Operators
// ---------------------------------------------------------------------------
//
// Weights are rows of any type listed in quants.def; a row is one neuron, n_embd long,
// contiguous. Activations are F32. Results are bit-equal for every n_threads and for
// every split of the columns into batches.

struct ggml_sparse_type_info {
    const char * name;       // "q4_0", as in gguf
    int32_t      type;       // enum ggml_type
    int32_t      block_size; // row length must be a multiple
    int32_t      type_size;  // bytes per block
    const char * x_name;     // type the activations are rounded to before a dot: "q8_0", or "f32" for not at all
};

// The rows of quants.def, 0 <= i < count.
GGML_SPARSE_API int32_t ggml_sparse_type_count(void) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API void ggml_sparse_type_get(int32_t i, struct ggml_sparse_type_info * info) GGML_SPARSE_NOEXCEPT;
// Best instruction set that this CPU can run, and whether it can run `isa`.
GGML_SPARSE_API enum ggml_sparse_isa ggml_sparse_isa_best(void) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API bool ggml_sparse_isa_usable(enum ggml_sparse_isa isa) GGML_SPARSE_NOEXCEPT;

// How the bytes of a row are ordered. PACKED is what dots read fastest, for quantised rows of a multiple
// of GGML_SPARSE_PACKED_COLUMNS elements; SUMS what sums of rows read fastest (down_t, fc2_t), for such q4_0 rows: the
// same number of bytes, the same bits of every result. They may change between versions and are never in a file;
// ggml_sparse_pack makes them.
enum ggml_sparse_layout {
    GGML_SPARSE_LAYOUT_ROWS   = 0, // ggml's
    GGML_SPARSE_LAYOUT_PACKED = 1,
    GGML_SPARSE_LAYOUT_SUMS   = 2,
};

#define GGML_SPARSE_PACKED_COLUMNS 512

struct ggml_sparse_matrix {
    int32_t      type;  // enum ggml_type
    int64_t      n_col; // row length
    int64_t      n_row;
    const void * data;  // n_row rows
    enum ggml_sparse_layout layout;
    size_t row_stride;  // bytes from row to row; 0: rows lie side by side
};

// Round F32 rows to `type` with ggml's quantiser, and back. dst must hold n_row rows.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_quantize(
        int32_t type, const float * src, int64_t n_row, int64_t n_col, void * dst, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_dequantize(
        const struct ggml_sparse_matrix * src, float * dst, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// The rows of src, of any layout, in `layout`; dst holds as many bytes as src and does not overlap it.
// ERR_UNSUPPORTED for a type or a row length that cannot be packed.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_pack(
        const struct ggml_sparse_matrix * src, enum ggml_sparse_layout layout, void * dst,
        struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;
// x [n_row, n_col] as a dot against `type` sees it: rounded to the type's x_name and back to F32.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_round_x(
        int32_t type, const float * x, int64_t n_row, int64_t n_col, float * dst, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// out[t, i] = w[ids[t, i], :] . x[t, :]         x [n_tokens, n_col], ids and out [n_tokens, n_ids]
// An id < 0 is skipped and gives 0; an id >= n_row is ERR_ARGUMENT.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_op_gather_dot(
        const struct ggml_sparse_matrix * w, const float * x, const int32_t * ids,
        int64_t n_tokens, int64_t n_ids, float * out,
        int32_t n_threads, enum ggml_sparse_isa isa, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// Of rows in ggml's layout only.
// y[t, :] = sum_i h[t, i] w[ids[t, i], :]       h and ids [n_tokens, n_ids], y [n_tokens, n_col]
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_op_gather_axpy(
        const struct ggml_sparse_matrix * w, const float * h, const int32_t * ids,
        int64_t n_tokens, int64_t n_ids, float * y,
        int32_t n_threads, enum ggml_sparse_isa isa, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

struct ggml_sparse_ffn {
    enum ggml_sparse_activation activation;
    enum ggml_sparse_mode       mode;  // DENSE, EXACT, PREDICTED or REFERENCE
    int32_t first_branch;              // 0 gate, 1 up
    float   threshold;
    struct ggml_sparse_matrix gate, up, down_t; // {n_embd, n_ff}; gate.data NULL for RELU
    struct ggml_sparse_matrix fc1, fc2;         // {n_embd, r}, {r, n_ff}; data NULL = no predictor
    const float * pred_in_scale;                // [n_embd] or NULL
    // down_t and fc2_t are in layout ROWS or SUMS, the others in ROWS or PACKED.
    // fc2 by hidden unit, {n_ff, r}: instead of fc2, which is then NULL. Rows of units that are zero are not read.
    struct ggml_sparse_matrix fc2_t;
};

// y[t, :] = ffn(x[t, :])   x, y [n_tokens, n_embd]; mask (or NULL) receives [n_tokens, n_ff],
// 1 where the predictor let the neuron pass; stats (or NULL) receives the counters.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_op_ffn(
        const struct ggml_sparse_ffn * ffn, const float * x, int64_t n_tokens,
        float * y, uint8_t * mask, struct ggml_sparse_layer_stats * stats,
        int32_t n_threads, enum ggml_sparse_isa isa, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// out[t, h, :] = sum_r p[r] v[r, g, :] with p = softmax over r of (scale * q[t, h, :] . k[r, g, :] + mask[t, r]) and
// g = h / (n_head / n_head_kv). q [n_tokens, n_head, k.n_col], out [n_tokens, n_head, v.n_col]; k and v hold the rows
// [n_kv, n_head_kv] in F32, F16 or Q8_0, their n_col is a multiple of 16; mask [n_tokens, n_kv] is F16. Zeros where
// the mask is -inf for every row. Values are F32 sums; results do not depend on rows that the mask hides.
GGML_SPARSE_API enum ggml_sparse_status ggml_sparse_op_attention(
        const struct ggml_sparse_matrix * k, const struct ggml_sparse_matrix * v, const float * q, const uint16_t * mask,
        int64_t n_tokens, int64_t n_head, int64_t n_kv, float scale, float * out,
        int32_t n_threads, enum ggml_sparse_isa isa, struct ggml_sparse_error * err) GGML_SPARSE_NOEXCEPT;

// All but attention as nodes of any ggml graph, executed by the CPU backend (GGML_OP_CUSTOM).
// w {n_col, n_row}, x F32 {n_col, n_tokens}, ids I32 {n_ids, n_tokens}, h F32 {n_ids, n_tokens}.
// `fc1`, `fc2` and `pred_in_scale` may be NULL; `params` is read, not kept: its matrices are
// ignored in favour of the tensors.
struct ggml_context;
struct ggml_tensor;

GGML_SPARSE_API struct ggml_tensor * ggml_sparse_gather_dot(
        struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * x, struct ggml_tensor * ids) GGML_SPARSE_NOEXCEPT; // {n_ids, n_tokens}
GGML_SPARSE_API struct ggml_tensor * ggml_sparse_gather_axpy(
        struct ggml_context * ctx, struct ggml_tensor * w, struct ggml_tensor * h, struct ggml_tensor * ids) GGML_SPARSE_NOEXCEPT; // {n_col, n_tokens}
GGML_SPARSE_API struct ggml_tensor * ggml_sparse_build_ffn(
        struct ggml_context * ctx, struct ggml_tensor * x,
        struct ggml_tensor * gate, struct ggml_tensor * up, struct ggml_tensor * down_t,
        struct ggml_tensor * fc1, struct ggml_tensor * fc2, struct ggml_tensor * pred_in_scale,
        const struct ggml_sparse_ffn * params) GGML_SPARSE_NOEXCEPT; // {n_embd, n_tokens}

#ifdef __cplusplus
}
#endif

#endif // GGML_SPARSE_H
