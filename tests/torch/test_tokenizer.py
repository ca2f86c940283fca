"""The vocabulary and its files."""

from __future__ import annotations

import itertools
import json

import pytest
from turbosparse.train.tokenizer import IM_END, IM_START, Tokenizer, chatml, train_pieces, write_files

pytestmark = pytest.mark.torch
TEXT = ["the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_pieces(TEXT, 300))


def test_base_ids_are_mistrals(tokenizer):
    pieces = [tokenizer.pieces.id_to_piece(i) for i in range(4)]
    assert pieces == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert tokenizer.n_pieces == 300


def test_added_tokens_follow_the_pieces_and_rows_are_padded(tokenizer):
    assert (tokenizer.im_end, tokenizer.im_start) == (300, 301)
    assert tokenizer.n_rows == 320


@pytest.mark.parametrize("text", ["the fox", "sea  shells\n by", "na\u00efve \U0001f98a 42", ""])
def test_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chatml_uses_the_added_tokens(tokenizer):
    text = chatml([("user", "the fox"), ("assistant", "the dog")])
    assert text == f"{IM_START}user\nthe fox{IM_END}\n{IM_START}assistant\nthe dog{IM_END}\n"
    ids = tokenizer.encode(text)
    assert [i for i in ids if i >= 300] == [301, 300, 301, 300]
    assert ids[1 : ids.index(300)] == tokenizer.pieces.encode("user\nthe fox")


def test_padding_rows_decode_to_nothing(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("the"), 310]) == "the"


def test_files(tmp_path, tokenizer):
    write_files(tokenizer, tmp_path)
    read = {p.name: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    config = read["tokenizer_config.json"]
    assert config["eos_token"] == read["special_tokens_map.json"]["eos_token"]["content"] == IM_END
    assert "chat_template" not in config
    assert read["added_tokens.json"] == {IM_END: 300, IM_START: 301}
    contents = {int(i): t["content"] for i, t in config["added_tokens_decoder"].items()}
    assert contents == {0: "<unk>", 1: "<s>", 2: "</s>", 300: IM_END, 301: IM_START}
    assert Tokenizer.load(tmp_path).encode("the fox") == tokenizer.encode("the fox")


def apply_merges(text, spec):
    """Plain BPE by tokenizer.json: normalise, split into characters or bytes, merge the best-ranked pair first."""
    vocab = spec["model"]["vocab"]
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(spec["model"]["merges"])}
    parts = list(("\u2581" + text).replace(" ", "\u2581"))
    while True:
        pairs = [(ranks.get(pair, 10**9), at) for at, pair in enumerate(itertools.pairwise(parts))]
        rank, at = min(pairs, default=(10**9, 0))
        if rank == 10**9:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    names = (n for p in parts for n in ([p] if p in vocab else [f"<0x{b:02X}>" for b in p.encode()]))
    return [vocab[name] for name in names]


@pytest.mark.parametrize("text", ["the quick fox", "sells  seashells", "zzz \u00e9 the\nshore"])
def test_tokenizer_json_splits_as_sentencepiece_does(tmp_path, tokenizer, text):
    write_files(tokenizer, tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert apply_merges(text, spec) == tokenizer.pieces.encode(text)
    assert [t["id"] for t in spec["added_tokens"]] == [0, 1, 2, 300, 301]
