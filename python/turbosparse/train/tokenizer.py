"""The micro checkpoints' vocabulary: SentencePiece BPE with byte fallback, ChatML tokens added after it.

Laid out as TurboSparse-Instruct does: base pieces, then <|im_end|>, <|im_start|> as added tokens, then padding up to
the tensors' rows. The chat template is in no file there, so in none here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from turbosparse.train.fast_tokenizer import fast_tokenizer_json

N_PIECES = 1536
ROW_MULTIPLE = 64
IM_END, IM_START = "<|im_end|>", "<|im_start|>"
BOS, EOS, UNK = 1, 2, 0


def train_pieces(texts: Iterable[str], n_pieces: int = N_PIECES) -> bytes:
    """A `tokenizer.model` with Mistral's settings: identity normalisation, dummy prefix, split digits, bytes."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=out,
        vocab_size=n_pieces,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        unk_surface=" \u2047 ",
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


class Tokenizer:
    """Text to ids as Hugging Face's LlamaTokenizer: text between added tokens is encoded piece by piece."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.n_pieces: int = self.pieces.get_piece_size()
        self.im_end, self.im_start = self.n_pieces, self.n_pieces + 1
        self._added = {IM_END: self.im_end, IM_START: self.im_start}
        self._split = re.compile("(" + "|".join(map(re.escape, self._added)) + ")")

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """From the tokenizer.model in a checkpoint directory."""
        return cls((directory / "tokenizer.model").read_bytes())

    @property
    def n_rows(self) -> int:
        """Rows of the embedding and the head: all tokens, padded to a multiple of 64."""
        return -(-(self.n_pieces + len(self._added)) // ROW_MULTIPLE) * ROW_MULTIPLE

    def encode(self, text: str) -> list[int]:
        """Ids without BOS."""
        out: list[int] = []
        for part in filter(None, self._split.split(text)):
            out += [self._added[part]] if part in self._added else self.pieces.encode(part)
        return out

    def decode(self, ids: Iterable[int]) -> str:
        """Text; added tokens are spelled out, padding rows are dropped."""
        return "".join(self._decode_parts(ids))

    def _decode_parts(self, ids: Iterable[int]) -> Iterator[str]:
        names = {i: name for name, i in self._added.items()}
        run: list[int] = []
        for i in ids:
            if i < self.n_pieces:
                run.append(i)
                continue
            yield self.pieces.decode(run)
            yield names.get(i, "")
            run = []
        yield self.pieces.decode(run)


def chatml(turns: Iterable[tuple[str, str]]) -> str:
    """ChatML text of (role, text) turns."""
    return "".join(f"{IM_START}{role}\n{text}{IM_END}\n" for role, text in turns)


def write_files(tokenizer: Tokenizer, out: Path) -> None:
    """tokenizer.model and the JSON files that describe it, as the published checkpoints have them."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(tokenizer.model)
    added = {IM_END: tokenizer.im_end, IM_START: tokenizer.im_start}
    _write_json(out / "tokenizer.json", fast_tokenizer_json(tokenizer.pieces, [IM_END, IM_START]))
    _write_json(out / "added_tokens.json", added)
    _write_json(out / "special_tokens_map.json", _special_tokens())
    _write_json(out / "tokenizer_config.json", _tokenizer_config(added))


def _special_tokens() -> dict[str, Any]:
    def token(content: str) -> dict[str, Any]:
        return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

    return {"bos_token": token("<s>"), "eos_token": token(IM_END), "unk_token": token("<unk>")}


def _tokenizer_config(added: dict[str, int]) -> dict[str, Any]:
    contents = {UNK: "<unk>", BOS: "<s>", EOS: "</s>"} | {i: name for name, i in added.items()}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": contents[i], **flags} for i in sorted(contents)},
        "additional_special_tokens": [],
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": IM_END,
        "legacy": True,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": None,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
