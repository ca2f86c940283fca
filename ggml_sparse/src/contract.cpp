#include "contract.h"

#include "error.h"
#include "ggml-cpu.h"
#include "key-reader.h"
#include "keys.h"
#include "types.h"
#include "vocabulary.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_set>

namespace ggml_sparse {

static constexpr int64_t k_version     = 1;
static constexpr int64_t k_max_layers  = 512; // libllama's own limits
static constexpr int64_t k_max_experts = 512;
static constexpr int64_t k_max_dim     = int64_t(1) << 28;

static const void * advance(const ggml_sparse_matrix & m, int64_t e) { return m.data ? row_at(m, e * m.n_row) : nullptr; }

ggml_sparse_ffn layer_spec::expert(int64_t e) const {
    ggml_sparse_ffn f = ffn;
    for (ggml_sparse_matrix * m : {&f.gate, &f.up, &f.down_t, &f.fc1, &f.fc2, &f.fc2_t}) {
        m->data = advance(*m, e);
    }
    return f;
}

// --- keys ----------------------------------------------------------------------

class contract_reader : private key_reader {
  public:
    contract_reader(const gguf_file & file, bool check) : key_reader(file), file_(file), check_(check) {}

    model_spec read() {
        identity();
        hyper_parameters();
        ffn_keys();
        predictor_keys();
        read_vocabulary(*this, info_);
        model_tensors();
        for (int32_t il = 0; il < info_.n_layer; ++il) {
            layer(il);
        }
        nothing_left_over();
        warn_unknown_keys();
        totals();
        return std::move(spec_);
    }

  private:
    void identity() {
        const std::string arch = string_key("general.architecture", nullptr);
        if (arch != keys::architecture) {
            error e(GGML_SPARSE_ERR_UNSUPPORTED,
                    file_.path() + ": general.architecture is \"" + arch +
                        "\", not \"turbosparse\". Run it with llama.cpp, or make a TurboSparse file with `turbosparse convert`.");
            throw e.at("general.architecture").expected(keys::architecture).found(arch);
        }
        info_.version = uint32_t(integer_key(keys::version, 0, UINT32_MAX));
        if (info_.version != k_version) {
            unsupported(keys::version, "version " + std::to_string(k_version), std::to_string(info_.version));
        }
        const std::string base = string_key(keys::base_architecture, nullptr);
        if (base != "llama") {
            unsupported(keys::base_architecture, "\"llama\"", "\"" + base + "\"");
        }
        std::snprintf(info_.base_architecture, sizeof(info_.base_architecture), "%s", base.c_str());
        if (const gguf_value * v = key(keys::required_features)) {
            if (!v->is_array || (v->type != GGUF_TYPE_STRING && v->count > 0)) {
                fail(keys::required_features, "an array of strings", v->type_name());
            }
            for (const auto & feature : v->strings) {
                if (feature != keys::feature_fc2_t) {
                    unsupported(keys::required_features, std::string("only \"") + keys::feature_fc2_t + "\"",
                                "\"" + std::string(feature) + "\"");
                }
                fc2_by_unit_ = true;
            }
        }
    }

    void hyper_parameters() {
        info_.n_layer        = int32_t(integer_key(keys::block_count, 1, k_max_layers));
        info_.n_embd         = int32_t(integer_key(keys::embedding_length, 1, k_max_dim));
        info_.n_ff           = int32_t(integer_key(keys::feed_forward_length, 1, k_max_dim));
        info_.n_head         = int32_t(integer_key(keys::head_count, 1, info_.n_embd));
        info_.n_head_kv      = int32_t(integer_key(keys::head_count_kv, 1, info_.n_head));
        info_.n_vocab        = int32_t(integer_key(keys::vocab_size, 1, k_max_dim));
        info_.n_ctx_train    = int32_t(integer_key(keys::context_length, 1, INT32_MAX));
        info_.n_expert       = int32_t(optional_integer(keys::expert_count, 0, k_max_experts, 0));
        info_.n_expert_used  = int32_t(optional_integer(keys::expert_used_count, info_.n_expert > 0, info_.n_expert, 0));
        info_.sliding_window = int32_t(optional_integer(keys::sliding_window, 0, INT32_MAX, 0));
        if (info_.n_embd % info_.n_head != 0) {
            fail(keys::head_count, "a divisor of embedding_length " + std::to_string(info_.n_embd), std::to_string(info_.n_head));
        }
        if (info_.n_head % info_.n_head_kv != 0) {
            fail(keys::head_count_kv, "a divisor of head_count " + std::to_string(info_.n_head), std::to_string(info_.n_head_kv));
        }
        if (info_.n_expert > 0 && info_.n_expert_used == 0) {
            fail(keys::expert_used_count, "1 to " + std::to_string(info_.n_expert), "no such key");
        }
        const int64_t head = info_.n_embd / info_.n_head;
        if (head % 2 != 0) {
            fail(keys::head_count, "an even head size", std::to_string(head));
        }
        if (optional_integer(keys::rope_dimension, 1, k_max_dim, head) != head) {
            fail(keys::rope_dimension, std::to_string(head), std::to_string(key(keys::rope_dimension)->integer()));
        }
        positive_key(keys::norm_rms_eps);
        if (key(keys::rope_freq_base)) {
            positive_key(keys::rope_freq_base);
        }
        rope_scaling();
    }

    void rope_scaling() {
        const std::string type = string_key(keys::rope_scaling_type, "none");
        if (type != "none" && type != "linear" && type != "yarn") {
            unsupported(keys::rope_scaling_type, "none, linear or yarn", "\"" + type + "\"");
        }
        if (key(keys::rope_scaling_factor)) {
            positive_key(keys::rope_scaling_factor);
        }
        optional_integer(keys::rope_scaling_orig, 1, INT32_MAX, 1);
    }

    void ffn_keys() {
        const std::string a = string_key(keys::ffn_activation, nullptr);
        if (a != "drelu" && a != "reglu" && a != "relu") {
            unsupported(keys::ffn_activation, "drelu, reglu or relu", "\"" + a + "\"");
        }
        info_.activation = a == "drelu" ? GGML_SPARSE_DRELU : a == "reglu" ? GGML_SPARSE_REGLU : GGML_SPARSE_RELU;
        if (info_.activation == GGML_SPARSE_RELU) {
            // libllama's llama graph has no FFN without a gate
            unsupported(keys::ffn_activation, "drelu or reglu for base architecture llama", "\"relu\"");
        }
        const std::string layout = string_key(keys::ffn_layout, "planar");
        if (layout != "planar") {
            unsupported(keys::ffn_layout, "planar", "\"" + layout + "\"");
        }
        const std::string order = string_key(keys::ffn_neuron_order, "original");
        if (order != "original" && order != "hot_first") {
            fail(keys::ffn_neuron_order, "original or hot_first", "\"" + order + "\"");
        }
        info_.hot_first = order == "hot_first";
        first_branch_   = number_array(keys::ffn_first_branch, info_.n_layer, true);
    }

    void predictor_keys() {
        const std::string kind = string_key(keys::predictor_kind, "none");
        if (kind != "none" && kind != "mlp") {
            unsupported(keys::predictor_kind, "none or mlp", "\"" + kind + "\"");
        }
        predictor_ = kind == "mlp";
        rank_      = number_array(keys::predictor_rank, info_.n_layer, true);
        threshold_ = number_array(keys::predictor_threshold, info_.n_layer, false);
        if (predictor_ && !rank_) {
            fail(keys::predictor_rank, "an array of " + std::to_string(info_.n_layer) + " integers", "no such key");
        }
        const std::string mode = string_key(keys::default_mode, "exact");
        if (mode != "exact" && mode != "predicted" && mode != "dense") {
            fail(keys::default_mode, "exact, predicted or dense", "\"" + mode + "\"");
        }
        info_.default_mode = mode == "exact"   ? GGML_SPARSE_MODE_EXACT
                             : mode == "dense" ? GGML_SPARSE_MODE_DENSE
                                               : GGML_SPARSE_MODE_PREDICTED;
        for (const char * name : {keys::predictor_source, keys::profile_corpus, keys::profile_sha256, keys::profile_tokens}) {
            key(name);
        }
    }

    // --- tensors -----------------------------------------------------------------

    const gguf_tensor_info * tensor(const std::string & name, std::initializer_list<int64_t> ne, bool required) {
        used_.insert(name);
        const gguf_tensor_info * t     = file_.find_tensor(name);
        std::string              shape = "{";
        size_t                   i     = 0;
        bool                     same  = true;
        for (const int64_t n : ne) {
            shape += (i ? ", " : "") + std::to_string(n);
            same = same && t && t->ne[i] == n;
            ++i;
        }
        shape += "}";
        if (!t) {
            if (required) {
                fail(name, "a tensor " + shape, "no such tensor");
            }
            return nullptr;
        }
        for (; i < GGML_MAX_DIMS; ++i) {
            same = same && t->ne[i] == 1;
        }
        if (!same) {
            fail(name, "shape " + shape, t->shape_text());
        }
        if (check_ && !ggml_validate_row_data(t->type, file_.data(*t), t->nbytes)) {
            fail(name, "finite values", "NaN or Inf");
        }
        return t;
    }

    const gguf_tensor_info & typed(const std::string & name, std::initializer_list<int64_t> ne, ggml_type type) {
        const gguf_tensor_info * t = tensor(name, ne, true);
        if (t->type != type) {
            fail(name, std::string("type ") + ggml_type_name(type), ggml_type_name(t->type));
        }
        return *t;
    }

    // A tensor that libllama's graph uses as it is.
    void rest(const std::string & name, std::initializer_list<int64_t> ne, bool vector) {
        const gguf_tensor_info * t = tensor(name, ne, true);
        if (vector && t->type != GGML_TYPE_F32) {
            fail(name, "type f32", ggml_type_name(t->type));
        }
        if (!vector && !ggml_get_type_traits_cpu(t->type)->vec_dot) {
            fail(name, "a type that llama.cpp can multiply", ggml_type_name(t->type));
        }
        spec_.rest.push_back(t);
        info_.bytes_rest += t->nbytes;
    }

    // Matrix {n_col, n_row[, n_expert]} of a type in quants.def.
    ggml_sparse_matrix matrix(const std::string & name, int64_t n_col, int64_t n_row) {
        const gguf_tensor_info * t =
            info_.n_expert > 0 ? tensor(name, {n_col, n_row, info_.n_expert}, true) : tensor(name, {n_col, n_row}, true);
        if (!weight_type_find(t->type)) {
            unsupported(name, "the types of quants.def for the FFN", ggml_type_name(t->type));
        }
        return {int32_t(t->type), n_col, n_row, file_.data(*t), GGML_SPARSE_LAYOUT_ROWS, 0};
    }

    void model_tensors() {
        rest(keys::token_embd, {info_.n_embd, info_.n_vocab}, false);
        rest(keys::output_norm, {info_.n_embd}, true);
        spec_.tied = file_.find_tensor(keys::output) == nullptr;
        if (!spec_.tied) {
            rest(keys::output, {info_.n_embd, info_.n_vocab}, false);
        }
    }

    void layer(int32_t il) {
        const std::string blk    = "blk." + std::to_string(il) + ".";
        const int64_t     n_embd = info_.n_embd, n_kv = n_embd / info_.n_head * info_.n_head_kv;
        rest(blk + keys::attn_norm, {n_embd}, true);
        rest(blk + keys::attn_q, {n_embd, n_embd}, false);
        rest(blk + keys::attn_k, {n_embd, n_kv}, false);
        rest(blk + keys::attn_v, {n_embd, n_kv}, false);
        rest(blk + keys::attn_output, {n_embd, n_embd}, false);
        rest(blk + keys::ffn_norm, {n_embd}, true);
        if (info_.n_expert > 0) {
            rest(blk + keys::ffn_gate_inp, {n_embd, info_.n_expert}, false);
        }
        layer_spec l;
        l.ffn.activation         = info_.activation;
        l.ffn.first_branch       = branch(il);
        const std::string weight = info_.n_expert > 0 ? "_exps.weight" : ".weight";
        l.ffn.gate               = matrix(blk + keys::ffn_gate + weight, n_embd, info_.n_ff);
        l.ffn.up                 = matrix(blk + keys::ffn_up + weight, n_embd, info_.n_ff);
        l.ffn.down_t             = matrix(blk + keys::ffn_down_t + weight, n_embd, info_.n_ff);
        predictor(il, blk, weight, l);
        placement(blk, l);
        spec_.layers.push_back(l);
    }

    int32_t branch(int32_t il) {
        const int64_t b = first_branch_ ? first_branch_->integer(uint64_t(il)) : 0;
        if (b < 0 || b > (info_.activation == GGML_SPARSE_DRELU ? 1 : 0)) {
            fail(keys::ffn_first_branch, info_.activation == GGML_SPARSE_DRELU ? "0 (gate) or 1 (up)" : "0 (gate)", std::to_string(b));
        }
        return int32_t(b);
    }

    void predictor(int32_t il, const std::string & blk, const std::string & weight, layer_spec & l) {
        const int64_t rank = rank_ ? rank_->integer(uint64_t(il)) : 0;
        if (rank < 0 || rank > k_max_dim || (rank > 0 && !predictor_)) {
            fail(keys::predictor_rank, predictor_ ? "0 or more" : "0, because predictor.kind is none", std::to_string(rank));
        }
        const double threshold = threshold_ ? threshold_->number(uint64_t(il)) : 0;
        if (!std::isfinite(threshold)) {
            fail(keys::predictor_threshold, "finite numbers", std::to_string(threshold));
        }
        l.rank          = int32_t(rank);
        l.ffn.threshold = float(threshold);
        if (rank == 0) {
            return;
        }
        info_.has_predictor = true;
        l.ffn.fc1           = matrix(blk + keys::ffn_pred_fc1 + weight, info_.n_embd, rank);
        if (fc2_by_unit_) {
            l.ffn.fc2_t = matrix(blk + keys::ffn_pred_fc2_t + weight, info_.n_ff, rank);
        } else {
            l.ffn.fc2 = matrix(blk + keys::ffn_pred_fc2 + weight, rank, info_.n_ff);
        }
        const std::string scale = blk + keys::pred_in_scale;
        if (file_.find_tensor(scale)) {
            const gguf_tensor_info & t = typed(scale, {info_.n_embd}, GGML_TYPE_F32);
            l.ffn.pred_in_scale        = reinterpret_cast<const float *>(file_.data(t));
            finite(scale, l.ffn.pred_in_scale, info_.n_embd);
            info_.bytes_predictor += t.nbytes;
        }
    }

    void finite(const std::string & name, const float * v, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
            if (!std::isfinite(v[i])) {
                fail(name, "finite values", "element " + std::to_string(i) + " = " + std::to_string(v[i]));
            }
        }
    }

    void placement(const std::string & blk, layer_spec & l) {
        const int64_t     n_set = std::max(info_.n_expert, 1);
        const std::string freq = blk + keys::neuron_freq, perm = blk + keys::neuron_perm, expert = blk + keys::expert_freq;
        if (file_.find_tensor(freq)) {
            const auto & t = typed(freq, {info_.n_ff, n_set}, GGML_TYPE_F32);
            for (int64_t e = 0; e < n_set; ++e) {
                frequencies(freq, reinterpret_cast<const float *>(file_.data(t)) + e * info_.n_ff, info_.n_ff, info_.hot_first);
            }
            l.has_frequency = true;
        }
        if (file_.find_tensor(perm)) {
            const auto & t = typed(perm, {info_.n_ff, n_set}, GGML_TYPE_I32);
            for (int64_t e = 0; e < n_set; ++e) {
                permutation(perm, reinterpret_cast<const int32_t *>(file_.data(t)) + e * info_.n_ff);
            }
        }
        if (info_.n_expert > 0 && file_.find_tensor(expert)) {
            const auto & t = typed(expert, {info_.n_expert}, GGML_TYPE_F32);
            frequencies(expert, reinterpret_cast<const float *>(file_.data(t)), info_.n_expert, false);
        }
    }

    void frequencies(const std::string & name, const float * f, int64_t n, bool falling) {
        for (int64_t i = 0; i < n; ++i) {
            if (!(f[i] >= 0.0f && f[i] <= 1.0f)) {
                fail(name, "frequencies in [0, 1]", "element " + std::to_string(i) + " = " + std::to_string(f[i]));
            }
            if (falling && i > 0 && f[i] > f[i - 1]) {
                fail(name, "falling frequencies (neuron_order is hot_first)",
                     "element " + std::to_string(i) + " = " + std::to_string(f[i]) + " after " + std::to_string(f[i - 1]));
            }
        }
    }

    void permutation(const std::string & name, const int32_t * p) {
        std::vector<bool> seen(size_t(info_.n_ff));
        for (int64_t i = 0; i < info_.n_ff; ++i) {
            if (p[i] < 0 || p[i] >= info_.n_ff || seen[size_t(p[i])]) {
                fail(name, "a permutation of 0 to " + std::to_string(info_.n_ff - 1),
                     "element " + std::to_string(i) + " = " + std::to_string(p[i]));
            }
            seen[size_t(p[i])] = true;
        }
    }

    void nothing_left_over() {
        for (const auto & t : file_.tensors()) {
            if (used_.count(t.name) == 0) {
                fail(t.name, "only the tensors of docs/gguf-extension.md", "a surplus tensor");
            }
        }
        if (info_.default_mode == GGML_SPARSE_MODE_PREDICTED && !info_.has_predictor) {
            fail(keys::default_mode, "exact or dense, because no layer has a predictor", "\"predicted\"");
        }
    }

    void warn_unknown_keys() {
        for (const auto & [name, value] : file_.keys()) {
            if (name.rfind(keys::prefix, 0) == 0 && !was_asked(name)) {
                spec_.warnings.push_back(file_.path() + ": key " + name + " is not known to this version and is ignored.");
            }
        }
    }

    void totals() {
        const uint64_t n_set = uint64_t(std::max(info_.n_expert, 1));
        const auto     bytes = [](const ggml_sparse_matrix & m) -> uint64_t {
            return m.data ? uint64_t(m.n_row) * ggml_row_size(ggml_type(m.type), m.n_col) : 0;
        };
        uint64_t per_expert = 0;
        for (const auto & l : spec_.layers) {
            per_expert += bytes(l.ffn.gate) + bytes(l.ffn.up) + bytes(l.ffn.down_t);
            info_.bytes_predictor += n_set * (bytes(l.ffn.fc1) + bytes(l.ffn.fc2) + bytes(l.ffn.fc2_t));
        }
        const gguf_tensor_info & embd = *file_.find_tensor(keys::token_embd);
        info_.bytes_file              = file_.size();
        info_.bytes_ffn               = n_set * per_expert;
        info_.bytes_dense_token       = bytes_rest_token(embd) + uint64_t(std::max(info_.n_expert_used, 1)) * per_expert;
    }

    // One row of the embedding is looked up; all of it is read when it is also the head.
    uint64_t bytes_rest_token(const gguf_tensor_info & embd) const {
        return info_.bytes_rest - (spec_.tied ? 0 : embd.nbytes - embd.nbytes / uint64_t(info_.n_vocab));
    }

    const gguf_file &               file_;
    const bool                      check_;
    model_spec                      spec_;
    ggml_sparse_model_info &        info_         = spec_.info;
    const gguf_value *              first_branch_ = nullptr;
    const gguf_value *              rank_         = nullptr;
    const gguf_value *              threshold_    = nullptr;
    bool                            predictor_    = false;
    bool                            fc2_by_unit_  = false;
    std::unordered_set<std::string> used_;
};

model_spec read_contract(const gguf_file & file, bool check_tensors) { return contract_reader(file, check_tensors).read(); }

} // namespace ggml_sparse
