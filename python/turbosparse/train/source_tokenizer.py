"""A source model's byte-level BPE: read from GGUF keys or tokenizer.json, written for `convert` and transformers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from turbosparse.convert.bpe import PRE_TOKENIZERS, read_bpe
from turbosparse.convert.checkpoint import read_json
from turbosparse.train.faults import SourceError
from turbosparse.train.shards import vocabulary_sha256

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # name -> what GGUF calls it
_CONTROL = (3, 4)  # CONTROL and USER_DEFINED of token_type
_ADDED = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


@dataclass(frozen=True)
class SourceTokenizer:
    """Tokens by id and merges by rank in GPT-2's byte alphabet; `ids` has bos, eos, unk, pad where they exist."""

    tokens: list[str]
    merges: list[tuple[str, str]]
    pre: str
    special: frozenset[int]
    ids: dict[str, int]
    add_bos: bool = False
    chat_template: str = ""

    @property
    def sha256(self) -> str:
        """What shards name their tokenizer by."""
        return vocabulary_sha256(self.tokens)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of plain ASCII words, with special tokens read as such; for templates, where libllama is not at hand."""
        at = {token: i for i, token in enumerate(self.tokens)}
        names = sorted((self.tokens[i] for i in self.special), key=len, reverse=True)
        rank = {pair: k for k, pair in enumerate(self.merges)}
        parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
        words = (w for p in parts for w in ([p] if p in names else re.findall(r" ?[A-Za-z]+| ?[^\sA-Za-z]+|\s", p)))
        return [at[t] for word in words for t in ([word] if word in names else _merge(word, rank))]

    def write(self, out: Path) -> None:
        """tokenizer.json and tokenizer_config.json, as transformers' PreTrainedTokenizerFast reads them."""
        out.mkdir(parents=True, exist_ok=True)
        _write_json(out / "tokenizer.json", self._tokenizer_json())
        _write_json(out / "tokenizer_config.json", self._tokenizer_config())

    def _tokenizer_json(self) -> dict[str, Any]:
        vocab = {token: i for i, token in enumerate(self.tokens)}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": self.tokens[i], **_ADDED} for i in sorted(self.special)],
            "normalizer": None,
            "pre_tokenizer": PRE_TOKENIZERS[self.pre],
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                "vocab": vocab, "merges": [" ".join(pair) for pair in self.merges],
            },
        }  # fmt: skip

    def _tokenizer_config(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "added_tokens_decoder": {str(i): {"content": self.tokens[i], **_ADDED} for i in sorted(self.special)},
            "add_bos_token": self.add_bos,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        out |= {f"{name}_token": self.tokens[self.ids[name]] for name in SPECIAL if name in self.ids}
        return out | ({"chat_template": self.chat_template} if self.chat_template else {})


def _merge(word: str, rank: dict[tuple[str, str], int]) -> list[str]:
    """Byte-level BPE of one ASCII word: the pair of the lowest rank is joined until none is left."""
    parts = [{" ": "\u0120", "\n": "\u010a"}.get(c, c) for c in word]
    while True:
        ranked = [(rank[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in rank]
        if not ranked:
            return parts
        i = min(ranked)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def tokenizer_from_gguf(fields: dict[str, Any]) -> SourceTokenizer:
    """From a GGUF file's parsed keys; SourceError if its tokenizer is not a byte-level BPE of a known kind."""
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise SourceError(f"tokenizer {model!r}, pre {pre!r}: only gpt2 (BPE) with pre {known} is supported", found=pre)
    merges = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL.items()}
    return SourceTokenizer(
        list(fields["tokenizer.ggml.tokens"]),
        [(left, right) for left, right in merges],
        str(pre),
        frozenset(i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind in _CONTROL),
        {name: int(i) for name, i in ids.items() if i is not None},
        bool(fields.get("tokenizer.ggml.add_bos_token", False)),
        fields.get("tokenizer.chat_template", ""),
    )


def tokenizer_from_hf(path: Path) -> SourceTokenizer:
    """From tokenizer.json and tokenizer_config.json in the directory `path`; ConvertError as convert.bpe raises it."""
    bpe = read_bpe(path)
    settings = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    added = {int(t["id"]): str(t["content"]) for t in read_json(path / "tokenizer.json").get("added_tokens", [])}
    tokens = bpe.tokens + [added.get(i, f"[PAD{i}]") for i in range(len(bpe.tokens), max(added, default=-1) + 1)]
    at = {token: i for i, token in enumerate(tokens)}
    names = {name: _content(settings.get(f"{name}_token")) for name in SPECIAL}
    template = settings.get("chat_template")
    jinja = path / "chat_template.jinja"
    if not template and jinja.is_file():
        template = jinja.read_text("utf-8")
    return SourceTokenizer(
        tokens,
        bpe.merges,
        bpe.pre,
        frozenset(added),
        {name: at[text] for name, text in names.items() if text in at},
        settings.get("add_bos_token") is True,
        template if isinstance(template, str) else "",
    )


def _content(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
