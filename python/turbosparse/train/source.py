"""What a student is made from: a SwiGLU model of Llama's layout, in a Hugging Face directory or a GGUF file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from turbosparse.convert.bpe import is_bpe
from turbosparse.convert.checkpoint import read_json
from turbosparse.torch.checkpoint import EMBEDDING, HEAD, build, read_state
from turbosparse.torch.config import Config, LayoutError
from turbosparse.torch.decoder import CausalLM
from turbosparse.train.faults import SourceError
from turbosparse.train.source_tokenizer import SourceTokenizer, tokenizer_from_gguf, tokenizer_from_hf

State = dict[str, Tensor]
SOURCE_LAYERS = "source_layers"  # in config.json: which layers of its teacher a pruned model has
TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
    "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A teacher: the student's config, weights by Hugging Face name in F32, and its tokenizer.

    `tokenizer` is None where it is not a byte-level BPE; then `tokenizer_dir` has the files to copy.
    """

    config: Config
    state: State
    tokenizer: SourceTokenizer | None
    tokenizer_dir: Path | None = None

    @property
    def layers(self) -> list[int]:
        """Which layers of the first teacher these are; a checkpoint that was pruned knows."""
        return list(self.config.extra.get(SOURCE_LAYERS) or range(self.config.num_hidden_layers))

    def model(self, ranks: list[int] | None = None) -> CausalLM:
        """A model with these weights and fresh predictors; Run(dense=True, activation=swiglu) makes it the teacher."""
        model = build(self.config, ranks or [0] * self.config.num_hidden_layers)
        state = dict(self.state)
        if self.config.tie_word_embeddings:
            state[HEAD] = state[EMBEDDING]
        missing, surplus = model.load_state_dict(state, strict=False)
        missing = [name for name in missing if ".predictor." not in name]
        if missing or surplus:
            names = ", ".join([*missing, *surplus][:3])
            raise SourceError(f"tensors missing or not understood: {names}", missing=missing, surplus=surplus)
        return model

    def with_layers(self, keep: Iterable[int]) -> Source:
        """The layers `keep` only, in their order, renumbered. SourceError if one does not exist or none is left."""
        layers = sorted(set(keep))
        n = self.config.num_hidden_layers
        if not layers or layers[0] < 0 or layers[-1] >= n:
            raise SourceError(f"layers to keep: {layers}; the model has layers 0..{n - 1}", expected=n, found=layers)
        at = {str(old): str(new) for new, old in enumerate(layers)}
        state = {_renumbered(name, at): t for name, t in self.state.items() if _layer_of(name) in (None, *at)}
        extra = self.config.extra | {SOURCE_LAYERS: [self.layers[i] for i in layers]}
        config = dataclasses.replace(self.config, num_hidden_layers=len(layers), extra=extra)
        return dataclasses.replace(self, config=config, state=state)

    def check_teacher(self, teacher: Source) -> None:
        """SourceError unless a student of this one can learn from `teacher`: same vocabulary, same width."""
        for key in ("vocab_size", "hidden_size"):
            mine, theirs = getattr(self.config, key), getattr(teacher.config, key)
            if mine != theirs:
                raise SourceError(f"the teacher's {key} is {theirs}, the student's {mine}", expected=mine, found=theirs)
        if self.tokenizer and teacher.tokenizer and self.tokenizer.sha256 != teacher.tokenizer.sha256:
            raise SourceError("the teacher's tokens are not the student's: take a teacher of the same vocabulary")

    def write_tokenizer(self, out: Path) -> None:
        """The tokenizer's files beside a saved student."""
        out.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.write(out)
        elif self.tokenizer_dir is not None:
            copy_tokenizer(self.tokenizer_dir, out)


def copy_tokenizer(checkpoint: Path, out: Path) -> None:
    """The tokenizer's files of a checkpoint, those that it has."""
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)


def open_source(path: Path) -> Source:
    """Reads `path`, a directory or a .gguf file. SourceError if it is no SwiGLU model of Llama's layout."""
    if path.is_dir():
        return _open_directory(path)
    if path.is_file():
        return _open_gguf(path)
    raise SourceError(f"{path}: no such file or directory", path=str(path))


def _open_directory(path: Path) -> Source:
    raw = read_json(path / "config.json")
    config = _config(raw, str(path / "config.json"))
    try:
        stored = read_state(path)
    except LayoutError as error:
        raise SourceError(str(error), path=str(path)) from error
    state = {k: t.float() for k, t in stored.items() if not k.endswith("rotary_emb.inv_freq")}
    if HEAD not in state:
        config = dataclasses.replace(config, tie_word_embeddings=True)
    if config.tie_word_embeddings:
        state.pop(HEAD, None)
    return Source(config, state, tokenizer_from_hf(path) if is_bpe(path) else None, path)


def _config(raw: dict[str, Any], where: str) -> Config:
    """The student's config from a Llama's or Mistral's config.json."""
    _demand(raw, where, "model_type", ("llama", "mistral"))
    _demand(raw, where, "hidden_act", ("silu",))
    for key in ("attention_bias", "mlp_bias", "rope_scaling"):
        _demand(raw, where, key, (None, False))
    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for key in wanted:
        if not isinstance(raw.get(key), int):
            raise SourceError(f"{where}: {key}: expected a number, found {raw.get(key)!r}", key=key)
    if raw.get("head_dim") not in (None, raw["hidden_size"] // raw["num_attention_heads"]):
        raise SourceError(f"{where}: head_dim: expected hidden_size / num_attention_heads, found {raw['head_dim']}")
    return Config(
        model_type="bamboo",
        **{key: raw[key] for key in wanted},
        num_key_value_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
        max_position_embeddings=raw.get("max_position_embeddings", 2048),
        rope_theta=float(raw.get("rope_theta", 10000.0)),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        sliding_window=raw.get("sliding_window"),
        bos_token_id=_first(raw.get("bos_token_id")),
        eos_token_id=_first(raw.get("eos_token_id")),
        tie_word_embeddings=raw.get("tie_word_embeddings") is True,
        extra={"use_cache": True} | {key: raw[key] for key in (SOURCE_LAYERS,) if key in raw},
    )


def write_llama_config(config: Config, out: Path, dtype: str) -> None:
    """Replaces config.json by that of the SwiGLU model of the same sizes, which `open_source` takes."""
    raw = config.to_dict(dtype) | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
    raw.pop("auto_map")
    (out / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def _demand(raw: dict[str, Any], where: str, key: str, allowed: tuple[Any, ...]) -> None:
    if raw.get(key) not in allowed:
        expected = " or ".join(map(repr, allowed))
        raise SourceError(f"{where}: {key}: expected {expected}, found {raw.get(key)!r}", key=key, found=raw.get(key))


def _open_gguf(path: Path) -> Source:
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(path)
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} is not a GGUF file: {error}", path=str(path)) from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _gguf_config(fields, path, {t.name for t in reader.tensors})
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state: State = {}
    for tensor in reader.tensors:
        weight = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            weight = unpermuted(weight, heads[kind])
        state[_hf_name(tensor.name)] = torch.from_numpy(weight)
    return Source(config, state, tokenizer_from_gguf(fields))


def _gguf_config(fields: dict[str, Any], path: Path, names: set[str]) -> Config:
    arch = fields.get("general.architecture")
    if arch != "llama" or fields.get("llama.rope.scaling.type") or fields.get("llama.expert_count"):
        raise SourceError(f"{path}: architecture {arch!r}: expected a plain llama", path=str(path), found=arch)
    key = {k.removeprefix("llama."): v for k, v in fields.items() if k.startswith("llama.")}
    for name in _NEEDED:
        if name not in key:
            raise SourceError(f"{path}: the key llama.{name} is missing", path=str(path), key=f"llama.{name}")
    return Config(
        model_type="bamboo",
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=key["embedding_length"],
        intermediate_size=key["feed_forward_length"],
        num_hidden_layers=key["block_count"],
        num_attention_heads=key["attention.head_count"],
        num_key_value_heads=key.get("attention.head_count_kv", key["attention.head_count"]),
        max_position_embeddings=key["context_length"],
        rope_theta=float(key.get("rope.freq_base", 10000.0)),
        # A decimal constant stored as F32: rounded back to the digits that it had.
        rms_norm_eps=float(f"{key['attention.layer_norm_rms_epsilon']:.6g}"),
        bos_token_id=_or_zero(fields.get("tokenizer.ggml.bos_token_id")),
        eos_token_id=_or_zero(fields.get("tokenizer.ggml.eos_token_id")),
        tie_word_embeddings="output.weight" not in names,
        extra={"use_cache": True},
    )


_NEEDED = (
    "embedding_length", "feed_forward_length", "block_count", "attention.head_count", "context_length",
    "attention.layer_norm_rms_epsilon",
)  # fmt: skip
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def _hf_name(name: str) -> str:
    parts = name.split(".")
    try:
        if parts[0] == "blk":
            return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
        return f"{_NAMES[parts[0]]}.{parts[1]}"
    except (KeyError, IndexError):
        raise SourceError(f"tensor {name}: no part of a plain llama", tensor=name) from None


def unpermuted(weight: np.ndarray[Any, np.dtype[np.float32]], n_head: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of a GGUF q or k matrix [n_head * head_dim, n_embd] from interleaved pairs back to Hugging Face's halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(n_head, rows // n_head // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


def _layer_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[2] if parts[:2] == ["model", "layers"] else None


def _renumbered(name: str, at: dict[str, str]) -> str:
    layer = _layer_of(name)
    return name if layer is None else name.replace(f".{layer}.", f".{at[layer]}.", 1)


def _first(value: Any) -> int:
    return _or_zero(value[0] if isinstance(value, list) and value else value)


def _or_zero(value: Any) -> int:
    return value if isinstance(value, int) else 0
