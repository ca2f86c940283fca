"""`tokenizer.json` of a SentencePiece BPE model, as Hugging Face derives it for LlamaTokenizerFast.

SentencePiece keeps no merges, only ranked pieces: a merge is any split of a piece into two pieces, ranked as the
piece it makes, ties by the ids of its halves.
"""

from __future__ import annotations

from typing import Any

import sentencepiece

SPACE = "\u2581"


def merges(pieces: sentencepiece.SentencePieceProcessor) -> list[tuple[str, str]]:
    """All merges, the first to apply first."""
    ids = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size()) if not _is_special(pieces, i)}
    splits = ((ids[piece], piece[:at], piece[at:]) for piece in ids for at in range(1, len(piece)))
    ranked = [
        (made, ids[left], ids[right], left, right) for made, left, right in splits if left in ids and right in ids
    ]
    return [(left, right) for *_, left, right in sorted(ranked)]  # BPE pieces are numbered by falling score


def fast_tokenizer_json(pieces: sentencepiece.SentencePieceProcessor, added: list[str]) -> dict[str, Any]:
    """The file's content; `added` follow the pieces as special tokens."""
    n_pieces = pieces.get_piece_size()
    special = {i: pieces.id_to_piece(i) for i in range(3)} | {n_pieces + i: name for i, name in enumerate(added)}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(i, content) for i, content in special.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {pieces.id_to_piece(i): i for i in range(n_pieces)},
            "merges": [f"{left} {right}" for left, right in merges(pieces)],
        },
    }


def _is_special(pieces: sentencepiece.SentencePieceProcessor, i: int) -> bool:
    return bool(pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))


def _added_token(i: int, content: str) -> dict[str, Any]:
    return {
        "id": i,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
