#include "selftest.h"

#include "context.h"
#include "error.h"
#include "keys.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace ggml_sparse {

namespace {

constexpr int64_t n_embd = 32, n_ff = 48, n_vocab = 16, n_head = 2;
constexpr int32_t k_token = 5;
constexpr float   k_eps   = 1e-5f;

using vec = std::vector<float>;

// Deterministic weights in [-0.5, 0.5): a linear congruence, so that no two rows agree.
vec weights(size_t n, uint32_t seed) {
    vec      w(n);
    uint32_t s = seed * 2654435761u + 12345u;
    for (float & v : w) {
        s = s * 1664525u + 1013904223u;
        v = float(s >> 8) / float(1u << 24) - 0.5f;
    }
    return w;
}

struct tiny_model {
    vec embd = weights(n_embd * n_vocab, 1), head = weights(n_embd * n_vocab, 2);
    vec q = weights(n_embd * n_embd, 3), k = weights(n_embd * n_embd, 4), v = weights(n_embd * n_embd, 5), o = weights(n_embd * n_embd, 6);
    vec gate = weights(n_embd * n_ff, 7), up = weights(n_embd * n_ff, 8), down_t = weights(n_embd * n_ff, 9);
    vec ones = vec(n_embd, 1.0f);
};

// --- the file ---------------------------------------------------------------------

void set_keys(gguf_context * g) {
    gguf_set_val_str(g, "general.architecture", keys::architecture);
    gguf_set_val_u32(g, keys::version, 1);
    gguf_set_val_str(g, keys::base_architecture, "llama");
    gguf_set_val_str(g, keys::ffn_activation, "drelu");
    gguf_set_val_str(g, keys::default_mode, "exact");
    gguf_set_val_u32(g, keys::block_count, 1);
    gguf_set_val_u32(g, keys::embedding_length, n_embd);
    gguf_set_val_u32(g, keys::feed_forward_length, n_ff);
    gguf_set_val_u32(g, keys::head_count, n_head);
    gguf_set_val_u32(g, keys::head_count_kv, n_head);
    gguf_set_val_u32(g, keys::vocab_size, n_vocab);
    gguf_set_val_u32(g, keys::context_length, 32);
    gguf_set_val_f32(g, keys::norm_rms_eps, k_eps);
    gguf_set_val_str(g, "tokenizer.ggml.model", "no_vocab");
}

void add(gguf_context * g, ggml_context * ctx, const std::string & name, const vec & data, int64_t n_col) {
    const int64_t n_row = int64_t(data.size()) / n_col;
    ggml_tensor * t     = n_row == 1 ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n_col) : ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_col, n_row);
    ggml_set_name(t, name.c_str());
    std::copy(data.begin(), data.end(), ggml_get_data_f32(t));
    gguf_add_tensor(g, t);
}

void add_tensors(gguf_context * g, ggml_context * ctx, const tiny_model & m) {
    const std::string blk = "blk.0.";
    add(g, ctx, keys::token_embd, m.embd, n_embd);
    add(g, ctx, keys::output_norm, m.ones, n_embd);
    add(g, ctx, keys::output, m.head, n_embd);
    add(g, ctx, blk + keys::attn_norm, m.ones, n_embd);
    add(g, ctx, blk + keys::attn_q, m.q, n_embd);
    add(g, ctx, blk + keys::attn_k, m.k, n_embd);
    add(g, ctx, blk + keys::attn_v, m.v, n_embd);
    add(g, ctx, blk + keys::attn_output, m.o, n_embd);
    add(g, ctx, blk + keys::ffn_norm, m.ones, n_embd);
    add(g, ctx, blk + keys::ffn_gate + ".weight", m.gate, n_embd);
    add(g, ctx, blk + keys::ffn_up + ".weight", m.up, n_embd);
    add(g, ctx, blk + keys::ffn_down_t + ".weight", m.down_t, n_embd);
}

// A file without a name, freed with the descriptor.
class memory_file {
  public:
    memory_file() : fd_(memfd_create("ggml-sparse-selftest", MFD_CLOEXEC)) {
        if (fd_ < 0) {
            throw error(GGML_SPARSE_ERR_HOST, "The self-test could not make a file in memory.");
        }
    }
    ~memory_file() { close(fd_); }
    std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

  private:
    int fd_;
};

void write_model(const std::string & path, const tiny_model & m) {
    std::unique_ptr<gguf_context, void (*)(gguf_context *)> g(gguf_init_empty(), gguf_free);
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> ctx(ggml_init({1 << 20, nullptr, false}), ggml_free);
    set_keys(g.get());
    add_tensors(g.get(), ctx.get(), m);
    if (!gguf_write_to_file(g.get(), path.c_str(), false)) {
        throw error(GGML_SPARSE_ERR_HOST, "The self-test could not write its model.");
    }
}

// --- the scalar reference ------------------------------------------------------------

vec product(const vec & w, const vec & x) { // rows of w times x
    vec y(w.size() / x.size());
    for (size_t i = 0; i < y.size(); ++i) {
        double sum = 0;
        for (size_t j = 0; j < x.size(); ++j) {
            sum += double(w[i * x.size() + j]) * x[j];
        }
        y[i] = float(sum);
    }
    return y;
}

vec rms_norm(const vec & x) {
    double sum = 0;
    for (const float v : x) {
        sum += double(v) * v;
    }
    vec y = x;
    for (float & v : y) {
        v = float(v / std::sqrt(sum / double(x.size()) + k_eps));
    }
    return y;
}

void add_to(vec & x, const vec & y) {
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] += y[i];
    }
}

// With a single token the attention's softmax is 1, so q and k do not matter.
vec scalar_logits(const tiny_model & m) {
    vec h(m.embd.begin() + k_token * n_embd, m.embd.begin() + (k_token + 1) * n_embd);
    add_to(h, product(m.o, product(m.v, rms_norm(h))));
    const vec x = rms_norm(h), g = product(m.gate, x), u = product(m.up, x);
    for (size_t j = 0; j < size_t(n_ff); ++j) {
        const float a = std::fmax(g[j], 0.0f) * std::fmax(u[j], 0.0f);
        for (size_t i = 0; i < size_t(n_embd); ++i) {
            h[i] += a * m.down_t[j * n_embd + i];
        }
    }
    return product(m.head, rms_norm(h));
}

vec host_logits(const std::string & path) {
    ggml_sparse_model          model(path, false);
    ggml_sparse_context_params params = ggml_sparse_context_default_params();
    params.n_ctx                      = 32;
    params.n_threads                  = 1;
    params.flash_attn                 = 0;
    params.type_k = params.type_v = GGML_TYPE_F32;
    ggml_sparse_context ctx(model, params);
    vec                 logits(n_vocab);
    ctx.eval(&k_token, 1, logits.data());
    return logits;
}

} // namespace

void run_selftest() {
    const tiny_model  m;
    const memory_file file;
    write_model(file.path(), m);
    const vec want = scalar_logits(m);
    vec       got;
    try {
        got = host_logits(file.path());
    } catch (const error & e) {
        throw error(GGML_SPARSE_ERR_HOST, std::string("The start-up self-test failed: ") + e.what()).at("self-test");
    }
    for (size_t i = 0; i < want.size(); ++i) {
        if (!(std::fabs(want[i] - got[i]) <= 1e-4f * (1 + std::fabs(want[i])))) {
            throw error(GGML_SPARSE_ERR_HOST, "The start-up self-test failed: the host computes another result than the scalar reference. "
                                              "The installed llama.cpp is not the one turbosparse was built for.")
                .at("self-test")
                .expected(std::to_string(want[i]))
                .found(std::to_string(got[i]));
        }
    }
}

} // namespace ggml_sparse
