"""Byte-level BPE: tokenizer.json to tokenizer.ggml.*, and libllama cutting text as the merges say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf.constants import GGUFValueType as V
from gguf.constants import TokenType
from turbosparse import Model
from turbosparse.convert import convert, keys
from turbosparse.convert.bpe import PRE_TOKENIZERS, pre_name, read_bpe
from turbosparse.convert.errors import CheckpointError, UnsupportedModelError
from turbosparse.convert.tokenizer import load_tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "\u0120 w", "\u0120w o", "1 2"]


def alphabet() -> list[str]:
    """GPT-2's 256 printable stand-ins for bytes, by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b if b in plain else next(others)) for b in range(256)]


def tokenizer_json(pre: Any, merges: list[Any] = MERGES) -> dict[str, Any]:
    tokens = [*SPECIAL, *alphabet(), *("".join(m if isinstance(m, list) else m.split(" ")) for m in merges)]
    added = [{"id": i, "content": text, "special": True} for i, text in enumerate(SPECIAL)]
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}
    return {"added_tokens": added, "pre_tokenizer": pre, "model": model}


@pytest.fixture
def bpe_dir(mistral_dir: Path, tmp_path: Path) -> Path:
    """The tiny Mistral with a byte-level BPE in place of its SentencePiece model."""
    out = Path(shutil.copytree(mistral_dir, tmp_path / "bpe"))
    for name in ("tokenizer.model", "added_tokens.json", "special_tokens_map.json"):
        (out / name).unlink()
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_json(PRE_TOKENIZERS["smollm"])))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    return out


def test_keys(bpe_dir: Path) -> None:
    tok = load_tokenizer(bpe_dir, {}, 384)
    kv = tok.kv()
    assert kv[keys.TOKENIZER_MODEL] == (V.STRING, "gpt2")
    assert kv[keys.TOKENIZER_PRE] == (V.STRING, "smollm")
    assert kv[keys.TOKENIZER_MERGES] == (V.ARRAY, [m.encode() for m in MERGES])
    assert kv[keys.TOKENIZER_ADD_BOS] == kv[keys.TOKENIZER_ADD_SPACE_PREFIX] == (V.BOOL, False)
    assert (tok.bos, tok.eos, tok.eot, tok.unk) == (1, 2, 2, 0)
    assert tok.types[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL]
    assert tok.tokens[266] == b"[PAD266]"
    assert len(tok.tokens) == 384


def test_sentencepiece_has_no_merges(mistral_dir: Path) -> None:
    kv = load_tokenizer(mistral_dir, {}, 384).kv()
    assert keys.TOKENIZER_MERGES not in kv
    assert kv[keys.TOKENIZER_PRE] == (V.STRING, "default")


def test_the_engine_cuts_text_by_the_merges(bpe_dir: Path, tmp_path: Path) -> None:
    at = json.loads((bpe_dir / "tokenizer.json").read_text())["model"]["vocab"]
    with Model(convert(bpe_dir, tmp_path / "m.gguf", outtype="f32")) as model:
        assert model.tokenize("hello wo") == [at["hello"], at["\u0120wo"]]
        assert model.tokenize("12") == [at["1"], at["2"]]  # smollm keeps digits apart, whatever the merges say
        text = "hell\u00f6 w\u00e9, \U0001f600\n12"
        assert model.detokenize(model.tokenize(text)) == text


@pytest.mark.parametrize("name", list(PRE_TOKENIZERS))
def test_pre_tokenizers_are_recognised(name: str) -> None:
    assert pre_name(PRE_TOKENIZERS[name]) == name
    assert pre_name({"type": "Sequence", "pretokenizers": [PRE_TOKENIZERS[name]]}) == name or name == "smollm"


@pytest.mark.parametrize(
    "pre",
    [None, {"type": "Metaspace"}, {**PRE_TOKENIZERS["gpt-2"], "add_prefix_space": True},
     {**PRE_TOKENIZERS["gpt-2"], "use_regex": False},
     {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, PRE_TOKENIZERS["gpt-2"]]}],
)  # fmt: skip
def test_other_pre_tokenizers_are_refused(pre: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="pre_tokenizer"):
        pre_name(pre)


def test_merges_may_be_pairs(tmp_path: Path) -> None:
    pairs = [m.split(" ") for m in MERGES]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(PRE_TOKENIZERS["gpt-2"], pairs)))
    bpe = read_bpe(tmp_path)
    assert bpe.merges == [tuple(m) for m in pairs]
    assert bpe.tokens[:3] == SPECIAL


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        ({"type": "Unigram"}, UnsupportedModelError, "'Unigram'"),
        (None, UnsupportedModelError, "None"),
        ({"type": "BPE", "vocab": {"a": 0}}, CheckpointError, "model.merges"),
        ({"type": "BPE", "vocab": {"a": 0, "b": 2}, "merges": []}, CheckpointError, "not 0..n-1"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}, CheckpointError, "'a b c'"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": []}, CheckpointError, "merges is empty"),
        ({"type": "BPE", "vocab": {str(i): i for i in range(999)}, "merges": ["1 2"]}, CheckpointError, "384 rows"),
    ],
)  # fmt: skip
def test_broken_files_are_named(bpe_dir: Path, model: Any, error: type[Exception], match: str) -> None:
    raw = {"pre_tokenizer": PRE_TOKENIZERS["gpt-2"], "model": model}
    (bpe_dir / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(error, match=match):
        load_tokenizer(bpe_dir, {}, 384)
