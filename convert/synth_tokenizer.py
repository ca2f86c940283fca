"""A SentencePiece model of any size, made of nothing: bytes, printable ASCII and words that do not exist.

Every longer piece is the concatenation of two shorter ones and scored below both, so that BPE's merges reach it. Any
text tokenises (byte fallback), and what a synthetic model generates can at least be read aloud.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import product

import numpy as np

SPACE = "\u2581"
CONTROL = ("<unk>", "<s>", "</s>")
IM_END, IM_START = "<|im_end|>", "<|im_start|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONSETS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "ch", "sh", "th", "st", "tr")
VOWELS = ("a", "e", "i", "o", "u")
CODAS = ("n", "r", "s", "t", "l", "m", "nd", "st")

# sentencepiece_model.proto: SentencePiece.Type and TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL_TYPE, BYTE = 1, 2, 3, 6
BPE = 2


def tokenizer_model(n_piece: int, seed: int = 0) -> bytes:
    """A serialised ModelProto with exactly `n_piece` pieces (at least 355): ids 0-2 control, 3-258 bytes, then text."""
    kinds = [UNKNOWN, CONTROL_TYPE, CONTROL_TYPE, *[BYTE] * 256]
    pieces = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))]
    text = _text_pieces(n_piece - len(pieces), seed)
    model = b"".join(_piece(piece, 0.0, kind) for piece, kind in zip(pieces, kinds, strict=True))
    model += b"".join(_piece(piece, -float(i), NORMAL) for i, piece in enumerate(text))
    return model + _field(2, _trainer_spec(n_piece)) + _field(3, _normalizer_spec())


def _text_pieces(n: int, seed: int) -> list[str]:
    """n different pieces, those that others are made of first."""
    chars = [SPACE, *map(chr, range(0x21, 0x7F))]
    if n < len(chars):
        raise ValueError(f"{n} pieces of text do not hold printable ASCII, {len(chars)} are needed")
    seen: dict[str, None] = dict.fromkeys(chars)
    for piece in _words(np.random.default_rng([seed, 1])):
        if len(seen) >= n:
            break
        seen.setdefault(piece)
    return list(seen)


def _words(rng: np.random.Generator) -> Iterator[str]:
    """Digraphs, syllables, syllables that start a word, then ever more words of two and three syllables."""
    yield from (part for part in (*ONSETS, *CODAS) if len(part) > 1)
    open_ = [a + b for a, b in product(ONSETS, VOWELS)]
    closed = [a + b for a, b in product(open_, CODAS)]
    syllables = [*open_, *(closed[i] for i in rng.permutation(len(closed)))]
    yield from syllables
    starts = [SPACE + syllable for syllable in syllables]
    yield from starts
    while True:
        words = [starts[a] + syllables[b] for a, b in rng.integers(0, len(starts), (10000, 2))]
        yield from words
        yield from (words[a] + syllables[b] for a, b in rng.integers(0, len(open_), (2000, 2)))


# --- protobuf wire format -------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | bytes) -> bytes:
    """A varint field, or a length-delimited one."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _piece(text: str, score: float, kind: int) -> bytes:
    body = _field(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _field(3, kind)
    return _field(1, body)


def _trainer_spec(n_piece: int) -> bytes:
    """model_type 3, vocab_size 4, byte_fallback 35, ids of unk 40, bos 41, eos 42; pad 43 is -1 = none."""
    numbers = {3: BPE, 4: n_piece, 35: 1, 40: 0, 41: 1, 42: 2, 43: 2**64 - 1}
    return b"".join(_field(number, value) for number, value in numbers.items())


def _normalizer_spec() -> bytes:
    """name 1, add_dummy_prefix 3, remove_extra_whitespaces 4, escape_whitespaces 5; as in Llama's own model."""
    return _field(1, b"identity") + _field(3, 1) + _field(4, 0) + _field(5, 1)
