"""Vocabulary, special ids and chat template, against SentencePiece itself and what llama.cpp needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2.sandbox
import pytest
from gguf.constants import TokenType
from turbosparse.convert.checkpoint import read_json
from turbosparse.convert.errors import CheckpointError, UnsupportedModelError
from turbosparse.convert.tokenizer import CHATML, Tokenizer, load_tokenizer

from tests import tiny


def load(path: Path, n_vocab: int = 384) -> Tokenizer:
    return load_tokenizer(path, read_json(path / "config.json"), n_vocab)


def test_pieces_scores_and_types(mistral_dir: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    sp = SentencePieceProcessor(model_file=str(mistral_dir / "tokenizer.model"))
    tok = load(mistral_dir)
    assert len(tok.tokens) == len(tok.scores) == len(tok.types) == 384
    for i in range(sp.GetPieceSize()):
        assert tok.tokens[i].decode() == sp.IdToPiece(i)
        assert tok.scores[i] == sp.GetScore(i)
    assert tok.types[0] == TokenType.UNKNOWN
    assert tok.types[1] == tok.types[2] == TokenType.CONTROL
    assert tok.tokens[3] == b"<0x00>"
    assert tok.types[3] == TokenType.BYTE
    assert TokenType.NORMAL in tok.types


def test_chatml_sets_eos_eot_and_template(mistral_dir: Path) -> None:
    tok = load(mistral_dir)
    assert tok.tokens[360:362] == [b"<|im_end|>", b"<|im_start|>"]
    assert tok.types[360] == tok.types[361] == TokenType.CONTROL
    assert (tok.bos, tok.eos, tok.eot, tok.unk) == (1, 360, 360, 0)
    assert tok.add_bos
    assert not tok.add_eos
    assert tok.chat_template == CHATML
    assert any("config.json says 2" in note for note in tok.notes)


def test_chatml_template_renders() -> None:
    template = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(CHATML)
    text = template.render(messages=[{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_padding_names_are_unique_and_unused(mistral_dir: Path) -> None:
    tok = load(mistral_dir, 400)
    assert tok.tokens[362:] == [f"[PAD{i}]".encode() for i in range(362, 400)]
    assert set(tok.types[362:]) == {TokenType.UNUSED}
    assert len(set(tok.tokens)) == 400


def test_own_template_is_kept(tmp_path: Path) -> None:
    tok = load(tiny.write_mistral(tmp_path / "hf", chat_template=True))
    assert tok.chat_template == tiny.CHATML != CHATML


def test_template_file_and_named_templates(mistral_dir: Path, edited: Any) -> None:
    assert load(edited(mistral_dir, files={"chat_template.jinja": b"{{ 1 }}"})).chat_template == "{{ 1 }}"
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    assert load(edited(mistral_dir, files={"tokenizer_config.json": {"chat_template": named}})).chat_template == "D"


def test_without_chatml_the_configured_eos_stays(tmp_path: Path) -> None:
    tok = load(tiny.write_reglu(tmp_path / "hf"))
    assert (tok.eos, tok.eot, tok.chat_template, tok.notes) == (2, None, "", [])


def test_tokenizer_config_decides(mistral_dir: Path, edited: Any) -> None:
    settings = read_json(mistral_dir / "tokenizer_config.json")
    changed = {"add_bos_token": False, "add_prefix_space": False, "bos_token": {"content": "</s>"}}
    tok = load(edited(mistral_dir, files={"tokenizer_config.json": settings | changed}))
    assert (tok.add_bos, tok.add_space_prefix, tok.bos) == (False, False, 2)


def test_added_tokens_that_are_not_special(mistral_dir: Path, edited: Any) -> None:
    added = {"added_tokens_decoder": {"365": {"content": "\u2581tab", "special": False}}}
    tok = load(edited(mistral_dir, files={"tokenizer_config.json": added, "added_tokens.json": None}))
    assert tok.tokens[365] == b" tab"
    assert tok.types[365] == TokenType.USER_DEFINED
    assert tok.tokens[364] == b"[PAD364]"


@pytest.mark.parametrize(("files", "error", "match"), [
    ({"tokenizer.model": None}, UnsupportedModelError, "SentencePiece"),
    ({"tokenizer.model": b"junk"}, CheckpointError, "not a SentencePiece model"),
    ({"tokenizer_config.json": b"{"}, CheckpointError, "not valid JSON"),
    ({"added_tokens.json": {"x": 999}}, CheckpointError, "id 999"),
    ({"added_tokens.json": {"x": -1}}, CheckpointError, "id -1"),
    ({"added_tokens.json": {"x": "one"}}, CheckpointError, "not an integer"),
    ({"added_tokens.json": {"<0x41>": 370}}, CheckpointError, "68 and 370 are both"),
])  # fmt: skip
def test_broken_tokenizers(mistral_dir: Path, edited: Any, files: dict[str, Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        load(edited(mistral_dir, files=files))


def test_more_pieces_than_rows(mistral_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="360 pieces"):
        load(mistral_dir, 300)
