#pragma once

// Names of the extended GGUF file (docs/gguf-extension.md): the C++ twin of
// convert/keys.py. A test compares the two.

namespace ggml_sparse::keys {

constexpr const char * architecture = "turbosparse";
constexpr const char * prefix       = "turbosparse.";

// keys, without the prefix, that have meaning for us alone
constexpr const char * version             = "turbosparse.version";
constexpr const char * base_architecture   = "turbosparse.base_architecture";
constexpr const char * default_mode        = "turbosparse.default_mode";
constexpr const char * required_features   = "turbosparse.required_features";
constexpr const char * ffn_activation      = "turbosparse.ffn.activation";
constexpr const char * ffn_neuron_order    = "turbosparse.ffn.neuron_order";
constexpr const char * ffn_layout          = "turbosparse.ffn.layout";
constexpr const char * ffn_first_branch    = "turbosparse.ffn.first_branch";
constexpr const char * predictor_kind      = "turbosparse.predictor.kind";
constexpr const char * predictor_rank      = "turbosparse.predictor.rank";
constexpr const char * predictor_threshold = "turbosparse.predictor.threshold";
constexpr const char * predictor_source    = "turbosparse.predictor.source";
constexpr const char * profile_corpus      = "turbosparse.profile.corpus";
constexpr const char * profile_sha256      = "turbosparse.profile.sha256";
constexpr const char * profile_tokens      = "turbosparse.profile.tokens";
constexpr const char * sliding_window      = "turbosparse.attention.sliding_window";

// entries of required_features
constexpr const char * feature_fc2_t = "predictor.fc2_t";

// hyper-parameters that the view shows as `llama.*`
constexpr const char * context_length      = "turbosparse.context_length";
constexpr const char * embedding_length    = "turbosparse.embedding_length";
constexpr const char * block_count         = "turbosparse.block_count";
constexpr const char * feed_forward_length = "turbosparse.feed_forward_length";
constexpr const char * vocab_size          = "turbosparse.vocab_size";
constexpr const char * head_count          = "turbosparse.attention.head_count";
constexpr const char * head_count_kv       = "turbosparse.attention.head_count_kv";
constexpr const char * norm_rms_eps        = "turbosparse.attention.layer_norm_rms_epsilon";
constexpr const char * rope_dimension      = "turbosparse.rope.dimension_count";
constexpr const char * rope_freq_base      = "turbosparse.rope.freq_base";
constexpr const char * rope_scaling_type   = "turbosparse.rope.scaling.type";
constexpr const char * rope_scaling_factor = "turbosparse.rope.scaling.factor";
constexpr const char * rope_scaling_orig   = "turbosparse.rope.scaling.original_context_length";
constexpr const char * expert_count        = "turbosparse.expert_count";
constexpr const char * expert_used_count   = "turbosparse.expert_used_count";

// tensors of a layer, behind "blk.N."
constexpr const char * attn_norm      = "attn_norm.weight";
constexpr const char * attn_q         = "attn_q.weight";
constexpr const char * attn_k         = "attn_k.weight";
constexpr const char * attn_v         = "attn_v.weight";
constexpr const char * attn_output    = "attn_output.weight";
constexpr const char * ffn_norm       = "ffn_norm.weight";
constexpr const char * ffn_gate_inp   = "ffn_gate_inp.weight";
constexpr const char * ffn_gate       = "ffn_gate"; // + "_exps" for experts, + ".weight"
constexpr const char * ffn_up         = "ffn_up";
constexpr const char * ffn_down_t     = "ffn_down_t";
constexpr const char * ffn_pred_fc1   = "ffn_pred_fc1";
constexpr const char * ffn_pred_fc2   = "ffn_pred_fc2";
constexpr const char * ffn_pred_fc2_t = "ffn_pred_fc2_t"; // instead of fc2 in files with feature_fc2_t
constexpr const char * pred_in_scale  = "ffn_pred_in_scale";
constexpr const char * neuron_freq    = "ffn_neuron_freq";
constexpr const char * expert_freq    = "ffn_expert_freq";
constexpr const char * neuron_perm    = "ffn_neuron_perm";

// tensors of the whole model
constexpr const char * token_embd  = "token_embd.weight";
constexpr const char * output_norm = "output_norm.weight";
constexpr const char * output      = "output.weight";

} // namespace ggml_sparse::keys
