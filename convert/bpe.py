"""Byte-level BPE (GPT-2's kind) between Hugging Face's tokenizer.json and the names libllama has for it.

What cuts text into words before any merge is code in libllama and data in tokenizer.json: PRE_TOKENIZERS pairs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import read_json
from .errors import CheckpointError, UnsupportedModelError

_BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS: dict[str, Any] = {"type": "Digits", "individual_digits": True}

# tokenizer.ggml.pre -> the "pre_tokenizer" of tokenizer.json.
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]},
    "gpt-2": _BYTE_LEVEL,
}


@dataclass(frozen=True)
class Bpe:
    """Tokens by id and merges by rank, both spelled in GPT-2's byte alphabet; `pre` is a key of PRE_TOKENIZERS."""

    tokens: list[str]
    merges: list[tuple[str, str]]
    pre: str


def is_bpe(path: Path) -> bool:
    """Whether the directory has a tokenizer.json and no SentencePiece model."""
    return not (path / "tokenizer.model").is_file() and (path / "tokenizer.json").is_file()


def read_bpe(path: Path) -> Bpe:
    """The byte-level BPE in the directory `path`, without its added tokens.

    Raises UnsupportedModelError for another kind of tokenizer, CheckpointError for a broken file.
    """
    raw = read_json(path / "tokenizer.json")
    model = raw.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise UnsupportedModelError(f"tokenizer.json: model type {kind!r}, expected 'BPE'", found=kind)
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise CheckpointError("tokenizer.json: model.vocab or model.merges is missing", path=str(path))
    return Bpe(_by_id(vocab), [_pair(m) for m in merges], pre_name(raw.get("pre_tokenizer")))


def pre_name(pre_tokenizer: Any) -> str:
    """The key of PRE_TOKENIZERS that says the same as tokenizer.json's "pre_tokenizer"."""
    for name, known in PRE_TOKENIZERS.items():
        if _shape(pre_tokenizer) == _shape(known):
            return name
    raise UnsupportedModelError(
        f"tokenizer.json: pre_tokenizer {pre_tokenizer!r} is not one of {', '.join(PRE_TOKENIZERS)}; "
        "SentencePiece checkpoints need their tokenizer.model",
        key="pre_tokenizer",
        found=pre_tokenizer,
    )


def _shape(node: Any) -> Any:
    """What changes the cut: trim_offsets does not, use_regex defaults to true, a Sequence of one is that one."""
    if not isinstance(node, dict):
        return node
    parts = node.get("pretokenizers")
    if node.get("type") == "Sequence" and isinstance(parts, list):
        shapes = [_shape(part) for part in parts]
        return shapes[0] if len(shapes) == 1 else shapes
    if node.get("type") == "ByteLevel":
        return ("ByteLevel", bool(node.get("add_prefix_space", True)), bool(node.get("use_regex", True)))
    return sorted((key, str(value)) for key, value in node.items())


def _by_id(vocab: dict[str, Any]) -> list[str]:
    tokens = {i: text for text, i in vocab.items() if type(i) is int}
    if sorted(tokens) != list(range(len(vocab))):
        raise CheckpointError(f"tokenizer.json: model.vocab has {len(vocab)} tokens whose ids are not 0..n-1")
    return [tokens[i] for i in range(len(tokens))]


def _pair(merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) and p for p in parts):
        raise CheckpointError(f"tokenizer.json: merge {merge!r} is not a pair of tokens", found=merge)
    return parts[0], parts[1]
