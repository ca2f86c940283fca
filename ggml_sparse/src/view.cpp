#include "view.h"

#include "error.h"
#include "keys.h"
#include "types.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <regex>

namespace ggml_sparse {

static constexpr size_t k_stdio_buffer = 1 << 16;

// Hyper-parameters that may pass, behind "turbosparse." and then "llama.".
static const char * const k_hparams[] = {
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "expert_count",
    "expert_used_count",
};

// Keys that may pass under their own name.
static const char * const k_shared[] = {
    "general.name",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces",
};

static void copy_strings(gguf_context * dst, const char * name, const gguf_value & v) {
    std::vector<std::string>  text(v.strings.begin(), v.strings.end());
    std::vector<const char *> pointers;
    for (const auto & t : text) {
        pointers.push_back(t.c_str());
    }
    if (v.is_array) {
        gguf_set_arr_str(dst, name, pointers.data(), pointers.size());
    } else {
        gguf_set_val_str(dst, name, pointers[0]);
    }
}

// libllama reads sizes as u32, factors as f32 and flags as bool.
static void copy_scalar(gguf_context * dst, const char * name, const gguf_value & v) {
    if (v.type == GGUF_TYPE_BOOL || std::strstr(name, "tokenizer.ggml.add_") || std::strstr(name, "remove_extra")) {
        gguf_set_val_bool(dst, name, v.integer() != 0);
    } else if (v.is_integer()) {
        gguf_set_val_u32(dst, name, uint32_t(v.integer()));
    } else {
        gguf_set_val_f32(dst, name, float(v.number()));
    }
}

static void copy_key(gguf_context * dst, const gguf_file & file, const std::string & from, const std::string & to) {
    const gguf_value * v = file.find_key(from);
    if (!v) {
        return;
    }
    if (v->type == GGUF_TYPE_STRING) {
        copy_strings(dst, to.c_str(), *v);
    } else if (v->is_array) {
        gguf_set_arr_data(dst, to.c_str(), v->type, v->raw, v->count);
    } else if (v->is_number()) {
        copy_scalar(dst, to.c_str(), *v);
    }
}

static void copy_keys(gguf_context * dst, const gguf_file & file) {
    gguf_set_val_str(dst, "general.architecture", "llama");
    for (const char * name : k_shared) {
        copy_key(dst, file, name, name);
    }
    for (const char * name : k_hparams) {
        copy_key(dst, file, keys::prefix + std::string(name), "llama." + std::string(name));
    }
}

struct ggml_context_deleter {
    void operator()(ggml_context * ctx) const { ggml_free(ctx); }
};

struct gguf_context_deleter {
    void operator()(gguf_context * ctx) const { gguf_free(ctx); }
};

// What libllama stages for a matrix that it need not read: the smallest type that fits.
static ggml_type placeholder_type(const ggml_sparse_model_info & info) {
    const int64_t block = ggml_blck_size(GGML_TYPE_IQ1_S);
    return info.n_embd % block == 0 && info.n_ff % block == 0 ? GGML_TYPE_IQ1_S : GGML_TYPE_F16;
}

static void add_tensor(gguf_context * gguf, ggml_context * ctx, const std::string & name, ggml_type type, const int64_t * ne, int n_dims) {
    ggml_tensor * t = ggml_new_tensor(ctx, type, n_dims, ne);
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(gguf, t);
}

// The three FFN tensors of a layer as libllama's graph names and shapes them.
static void add_ffn(gguf_context * gguf, ggml_context * ctx, const ggml_sparse_model_info & info, int32_t il) {
    const std::string blk       = "blk." + std::to_string(il) + ".ffn_";
    const std::string tail      = info.n_expert > 0 ? "_exps.weight" : ".weight";
    const ggml_type   type      = placeholder_type(info);
    const int         n_dims    = info.n_expert > 0 ? 3 : 2;
    const int64_t     wide[3]   = {info.n_embd, info.n_ff, info.n_expert};
    const int64_t     narrow[3] = {info.n_ff, info.n_embd, info.n_expert};
    add_tensor(gguf, ctx, blk + "gate" + tail, type, wide, n_dims);
    add_tensor(gguf, ctx, blk + "up" + tail, type, wide, n_dims);
    add_tensor(gguf, ctx, blk + "down" + tail, type, narrow, n_dims);
}

// Their tensors point into the mapping (buffer.h), so libllama need not be given the bytes.
static bool is_matrix(const gguf_tensor_info & t) {
    static const std::regex pattern(k_matrix_pattern);
    return std::regex_search(t.name, pattern);
}

std::string products_pattern(const model_spec & spec) {
    std::string pattern = "^(";
    for (const char * kind : {"output", "blk\\.[0-9]+\\.ffn_gate_inp", "blk\\.[0-9]+\\.attn_q", "blk\\.[0-9]+\\.attn_k",
                              "blk\\.[0-9]+\\.attn_v", "blk\\.[0-9]+\\.attn_output"}) {
        const std::regex name(std::string("^") + kind + "\\.weight$");
        const auto foreign = [&](const gguf_tensor_info * t) { return std::regex_match(t->name, name) && !weight_type_find(t->type); };
        if (std::none_of(spec.rest.begin(), spec.rest.end(), foreign)) {
            pattern += (pattern.back() == '(' ? "" : "|") + std::string(kind);
        }
    }
    return pattern.back() == '(' ? "^$" : pattern + ")\\.weight$";
}

void llama_view::add_header(const gguf_file & file, const model_spec & spec) {
    const size_t                                        n_tensors = spec.rest.size() + 3 * spec.layers.size();
    std::unique_ptr<ggml_context, ggml_context_deleter> ctx(ggml_init({ggml_tensor_overhead() * n_tensors, nullptr, true}));
    std::unique_ptr<gguf_context, gguf_context_deleter> gguf(gguf_init_empty());
    if (!ctx || !gguf) {
        throw std::bad_alloc();
    }
    copy_keys(gguf.get(), file);
    for (const gguf_tensor_info * t : spec.rest) {
        add_tensor(gguf.get(), ctx.get(), t->name, t->type, t->ne, t->n_dims);
    }
    for (int32_t il = 0; il < spec.info.n_layer; ++il) {
        add_ffn(gguf.get(), ctx.get(), spec.info, il);
    }
    header_.resize(gguf_get_meta_size(gguf.get()));
    gguf_get_meta_data(gguf.get(), header_.data());

    segments_.push_back({0, header_.size(), header_.data(), false});
    for (size_t i = 0; i < n_tensors; ++i) {
        const uint64_t  begin = header_.size() + gguf_get_tensor_offset(gguf.get(), int64_t(i));
        const bool      ffn   = i >= spec.rest.size();
        const uint8_t * data  = ffn || is_matrix(*spec.rest[i]) ? nullptr : file.data(*spec.rest[i]);
        segments_.push_back({begin, gguf_get_tensor_size(gguf.get(), int64_t(i)), data, ffn});
    }
    const segment & last = segments_.back();
    size_                = (last.begin + last.size + GGUF_DEFAULT_ALIGNMENT - 1) / GGUF_DEFAULT_ALIGNMENT * GGUF_DEFAULT_ALIGNMENT;
}

llama_view::llama_view(const gguf_file & file, const model_spec & spec) { add_header(file, spec); }

// Copy what is at `pos` up to the end of its segment or of the gap before the next.
size_t llama_view::copy(char * buf, uint64_t pos, size_t size) {
    const auto next = std::upper_bound(segments_.begin(), segments_.end(), pos, [](uint64_t p, const segment & s) { return p < s.begin; });
    const segment & s   = *(next - 1);
    const uint64_t  end = next == segments_.end() ? size_ : next->begin;
    if (pos >= s.begin + s.size) { // padding
        const size_t n = std::min<uint64_t>(size, end - pos);
        std::memset(buf, 0, n);
        return n;
    }
    const size_t n = std::min<uint64_t>(size, s.begin + s.size - pos);
    if (s.data) {
        std::memcpy(buf, s.data + (pos - s.begin), n);
        ffn_bytes_copied_ += s.ffn ? n : 0;
    }
    return n;
}

ssize_t llama_view::read(char * buf, size_t size) {
    size_t done = 0;
    while (done < size && pos_ < size_) {
        const size_t n = copy(buf + done, pos_, size - done);
        done += n;
        pos_ += n;
    }
    return ssize_t(done);
}

int llama_view::seek(int64_t * offset, int whence) {
    const int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? int64_t(pos_) : int64_t(size_);
    const int64_t to   = base + *offset;
    if (to < 0 || uint64_t(to) > size_) {
        errno = EINVAL;
        return -1;
    }
    pos_    = uint64_t(to);
    *offset = to;
    return 0;
}

FILE * llama_view::open() {
    const cookie_io_functions_t io = {
        [](void * self, char * buf, size_t size) { return static_cast<llama_view *>(self)->read(buf, size); },
        nullptr,
        [](void * self, off64_t * offset, int whence) {
            int64_t   to = *offset;
            const int rc = static_cast<llama_view *>(self)->seek(&to, whence);
            *offset      = to;
            return rc;
        },
        nullptr,
    };
    pos_     = 0;
    FILE * f = fopencookie(this, "rb", io);
    if (!f) {
        throw error(GGML_SPARSE_ERR_FILE, std::string("The model's view cannot be opened: ") + std::strerror(errno) + ".");
    }
    // stdio copies through a buffer whatever read() left in it: make that few large copies
    std::setvbuf(f, nullptr, _IOFBF, k_stdio_buffer);
    return f;
}

} // namespace ggml_sparse
