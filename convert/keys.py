"""Every key and tensor name of the TurboSparse GGUF file (docs/gguf-extension.md), and nothing else."""

from __future__ import annotations

ARCHITECTURE = "turbosparse"
VERSION = 1
ALIGNMENT = 4096  # bytes; every tensor starts on a page and is padded to one

# general.*
GENERAL_ARCHITECTURE = "general.architecture"
GENERAL_ALIGNMENT = "general.alignment"
GENERAL_NAME = "general.name"
GENERAL_FILE_TYPE = "general.file_type"
GENERAL_QUANTIZATION_VERSION = "general.quantization_version"
CONVERTER = "general.converter"  # version and options, for people

# turbosparse.* that libllama's view copies to llama.*
CONTEXT_LENGTH = "turbosparse.context_length"
EMBEDDING_LENGTH = "turbosparse.embedding_length"
BLOCK_COUNT = "turbosparse.block_count"
FEED_FORWARD_LENGTH = "turbosparse.feed_forward_length"
VOCAB_SIZE = "turbosparse.vocab_size"
HEAD_COUNT = "turbosparse.attention.head_count"
HEAD_COUNT_KV = "turbosparse.attention.head_count_kv"
RMS_EPSILON = "turbosparse.attention.layer_norm_rms_epsilon"
ROPE_DIMENSION_COUNT = "turbosparse.rope.dimension_count"
ROPE_FREQ_BASE = "turbosparse.rope.freq_base"
ROPE_SCALING_TYPE = "turbosparse.rope.scaling.type"
ROPE_SCALING_FACTOR = "turbosparse.rope.scaling.factor"
EXPERT_COUNT = "turbosparse.expert_count"
EXPERT_USED_COUNT = "turbosparse.expert_used_count"

# turbosparse.* of our own
FORMAT_VERSION = "turbosparse.version"
BASE_ARCHITECTURE = "turbosparse.base_architecture"
SLIDING_WINDOW = "turbosparse.attention.sliding_window"
FFN_ACTIVATION = "turbosparse.ffn.activation"
FFN_NEURON_ORDER = "turbosparse.ffn.neuron_order"
FFN_LAYOUT = "turbosparse.ffn.layout"
FFN_FIRST_BRANCH = "turbosparse.ffn.first_branch"
DEFAULT_MODE = "turbosparse.default_mode"
REQUIRED_FEATURES = "turbosparse.required_features"
PREDICTOR_KIND = "turbosparse.predictor.kind"
PREDICTOR_RANK = "turbosparse.predictor.rank"
PREDICTOR_THRESHOLD = "turbosparse.predictor.threshold"
PREDICTOR_SOURCE = "turbosparse.predictor.source"
PROFILE_CORPUS = "turbosparse.profile.corpus"
PROFILE_SHA256 = "turbosparse.profile.sha256"
PROFILE_TOKENS = "turbosparse.profile.tokens"

# tokenizer.*
TOKENIZER_MODEL = "tokenizer.ggml.model"
TOKENIZER_PRE = "tokenizer.ggml.pre"
TOKENIZER_TOKENS = "tokenizer.ggml.tokens"
TOKENIZER_SCORES = "tokenizer.ggml.scores"
TOKENIZER_TYPES = "tokenizer.ggml.token_type"
TOKENIZER_MERGES = "tokenizer.ggml.merges"
TOKENIZER_BOS = "tokenizer.ggml.bos_token_id"
TOKENIZER_EOS = "tokenizer.ggml.eos_token_id"
TOKENIZER_EOT = "tokenizer.ggml.eot_token_id"
TOKENIZER_UNK = "tokenizer.ggml.unknown_token_id"
TOKENIZER_PAD = "tokenizer.ggml.padding_token_id"
TOKENIZER_ADD_BOS = "tokenizer.ggml.add_bos_token"
TOKENIZER_ADD_EOS = "tokenizer.ggml.add_eos_token"
TOKENIZER_ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
CHAT_TEMPLATE = "tokenizer.chat_template"

ACTIVATIONS = ("drelu", "reglu", "relu")
NEURON_ORDERS = ("original", "hot_first")
PREDICTOR_KINDS = ("none", "mlp")
FEATURE_FC2_T = "predictor.fc2_t"  # of required_features: fc2 is stored by hidden unit
FEATURES = (FEATURE_FC2_T,)

# Tensors. Shapes in docs/gguf-extension.md; `{}` is the layer.
TOKEN_EMBD = "token_embd.weight"
OUTPUT = "output.weight"
OUTPUT_NORM = "output_norm.weight"
ATTN_NORM = "blk.{}.attn_norm.weight"
ATTN_Q = "blk.{}.attn_q.weight"
ATTN_K = "blk.{}.attn_k.weight"
ATTN_V = "blk.{}.attn_v.weight"
ATTN_OUTPUT = "blk.{}.attn_output.weight"
FFN_NORM = "blk.{}.ffn_norm.weight"
FFN_GATE = "blk.{}.ffn_gate.weight"
FFN_UP = "blk.{}.ffn_up.weight"
FFN_DOWN_T = "blk.{}.ffn_down_t.weight"
FFN_PRED_FC1 = "blk.{}.ffn_pred_fc1.weight"
FFN_PRED_FC2 = "blk.{}.ffn_pred_fc2.weight"
FFN_PRED_FC2_T = "blk.{}.ffn_pred_fc2_t.weight"
FFN_GATE_INP = "blk.{}.ffn_gate_inp.weight"
FFN_GATE_EXPS = "blk.{}.ffn_gate_exps.weight"
FFN_UP_EXPS = "blk.{}.ffn_up_exps.weight"
FFN_DOWN_T_EXPS = "blk.{}.ffn_down_t_exps.weight"
FFN_PRED_FC1_EXPS = "blk.{}.ffn_pred_fc1_exps.weight"
FFN_PRED_FC2_EXPS = "blk.{}.ffn_pred_fc2_exps.weight"
FFN_PRED_FC2_T_EXPS = "blk.{}.ffn_pred_fc2_t_exps.weight"
FFN_PRED_IN_SCALE = "blk.{}.ffn_pred_in_scale"
FFN_NEURON_FREQ = "blk.{}.ffn_neuron_freq"
FFN_NEURON_PERM = "blk.{}.ffn_neuron_perm"
FFN_EXPERT_FREQ = "blk.{}.ffn_expert_freq"
