// Batches of rows that belong to several sequences, and the life of a sequence.

#include "context.h"
#include "error.h"

#include <vector>

using namespace ggml_sparse;

// libllama's form of rows; positions follow what each sequence has.
struct row_batch {
    row_batch(const ggml_sparse_context & ctx, const ggml_sparse_row * rows, int32_t n_rows)
        : n_past(size_t(ctx.n_seq_max)), seqs(size_t(n_rows)), counts(size_t(n_rows), 1) {
        for (int32_t s = 0; s < ctx.n_seq_max; ++s) {
            n_past[size_t(s)] = ctx.seq_n_past(s);
        }
        std::vector<int32_t> next = n_past;
        for (int32_t i = 0; i < n_rows; ++i) {
            tokens.push_back(rows[i].token);
            pos.push_back(next[size_t(rows[i].seq)]++);
            seqs[size_t(i)] = rows[i].seq;
            seq_ptrs.push_back(&seqs[size_t(i)]);
            wanted.push_back(rows[i].logits);
        }
        host.n_tokens = n_rows;
        host.token    = tokens.data();
        host.pos      = pos.data();
        host.n_seq_id = counts.data();
        host.seq_id   = seq_ptrs.data();
        host.logits   = wanted.data();
    }

    std::vector<int32_t>        n_past; // before it
    std::vector<llama_token>    tokens;
    std::vector<llama_pos>      pos;
    std::vector<llama_seq_id>   seqs;
    std::vector<int32_t>        counts;
    std::vector<llama_seq_id *> seq_ptrs;
    std::vector<int8_t>         wanted;
    llama_batch                 host{};
};

void ggml_sparse_context::check_seq(int32_t seq) const { require_argument(seq >= 0 && seq < n_seq_max, "sequence outside [0, n_seq_max)"); }

void ggml_sparse_context::check_rows(const ggml_sparse_row * rows, int32_t n_rows) const {
    require_argument(rows && n_rows > 0 && n_rows <= n_batch, "a batch has from 1 to n_batch rows");
    std::vector<int32_t> count(size_t(n_seq_max), 0);
    for (int32_t i = 0; i < n_rows; ++i) {
        const ggml_sparse_row & r = rows[i];
        check_seq(r.seq);
        require_argument(r.token >= 0 && r.token < model.spec.info.n_vocab, "token outside [0, n_vocab)");
        require_argument(i == 0 || rows[i - 1].seq == r.seq || count[size_t(r.seq)] == 0, "the rows of a sequence must stand together");
        ++count[size_t(r.seq)];
    }
    for (int32_t s = 0; s < n_seq_max; ++s) {
        const int64_t n = int64_t(seq_n_past(s)) + count[size_t(s)];
        if (count[size_t(s)] > 0 && n > n_ctx) {
            error e(GGML_SPARSE_ERR_CONTEXT, "Sequence " + std::to_string(s) + " would be " + std::to_string(n) +
                                                 " tokens long, but it may hold " + std::to_string(n_ctx) + ".");
            throw e.at("n_ctx").counts(n, n_ctx);
        }
    }
}

void ggml_sparse_context::decode_rows(const ggml_sparse_row * rows, int32_t n_rows) {
    const flag_reset reset{session.cancel};
    check_rows(rows, n_rows);
    row_batch batch(*this, rows, n_rows);
    has_logits       = false;
    const int32_t rc = run(batch.host);
    if (rc != 0) {
        for (int32_t s = 0; s < n_seq_max; ++s) {
            llama_memory_seq_rm(llama_get_memory(llama.get()), s, batch.n_past[size_t(s)], -1);
        }
    }
    check_decode(rc);
    n_past = seq_n_past(0);
    row_has_logits.assign(batch.wanted.begin(), batch.wanted.end());
}

const float * ggml_sparse_context::row_logits(int32_t i_row) {
    const bool has = i_row >= 0 && size_t(i_row) < row_has_logits.size() && row_has_logits[size_t(i_row)];
    return has ? llama_get_logits_ith(llama.get(), i_row) : nullptr;
}

int32_t ggml_sparse_context::seq_n_past(int32_t seq) const { return llama_memory_seq_pos_max(llama_get_memory(llama.get()), seq) + 1; }

int32_t ggml_sparse_context::seq_keep(int32_t seq, int32_t n) {
    check_seq(seq);
    require_argument(n >= 0 && n <= seq_n_past(seq), "seq_keep: n is larger than the sequence");
    llama_memory_t memory = llama_get_memory(llama.get());
    const bool     whole  = llama_memory_seq_pos_min(memory, seq) <= 0; // a sliding window has dropped its beginning
    const bool     same   = n == seq_n_past(seq);
    if (n == 0 || (!same && !whole) || !llama_memory_seq_rm(memory, seq, n, -1)) {
        llama_memory_seq_rm(memory, seq, 0, -1);
    }
    if (seq == 0) {
        n_past     = seq_n_past(0);
        has_logits = false;
    }
    return seq_n_past(seq);
}

void ggml_sparse_context::seq_copy(int32_t from, int32_t to) {
    check_seq(from);
    check_seq(to);
    if (from == to) {
        return;
    }
    llama_memory_t memory = llama_get_memory(llama.get());
    llama_memory_seq_rm(memory, to, 0, -1);
    llama_memory_seq_cp(memory, from, to, -1, -1);
    copying = true;
    if (to == 0) {
        n_past     = seq_n_past(0);
        has_logits = false;
    }
}

// --- C API ---------------------------------------------------------------------------

ggml_sparse_status ggml_sparse_context_decode(ggml_sparse_context * ctx, const ggml_sparse_row * rows, int32_t n_rows,
                                              ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->decode_rows(rows, n_rows); });
}

const float * ggml_sparse_context_row_logits(ggml_sparse_context * ctx, int32_t i_row) noexcept { return ctx->row_logits(i_row); }

int32_t ggml_sparse_context_seq_n_past(const ggml_sparse_context * ctx, int32_t seq) noexcept {
    return seq >= 0 && seq < ctx->n_seq_max ? ctx->seq_n_past(seq) : -1;
}

ggml_sparse_status ggml_sparse_context_seq_keep(ggml_sparse_context * ctx, int32_t seq, int32_t n, int32_t * kept,
                                                ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(kept != nullptr, "kept must not be NULL");
        *kept = ctx->seq_keep(seq, n);
    });
}

ggml_sparse_status ggml_sparse_context_seq_copy(ggml_sparse_context * ctx, int32_t from, int32_t to, ggml_sparse_error * err) noexcept {
    return guard(err, [&] { ctx->seq_copy(from, to); });
}
