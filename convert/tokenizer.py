"""tokenizer.model or a byte-level BPE, added tokens and chat template -> tokenizer.* keys.

TurboSparse-Instruct checkpoints speak ChatML, say so only in their README and set eos to 2:
where <|im_start|> and <|im_end|> exist, the latter ends a turn whatever config.json says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType as V
from gguf.constants import TokenType

from . import keys
from .bpe import is_bpe, read_bpe
from .checkpoint import read_json
from .errors import CheckpointError, UnsupportedModelError

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ADDED_SCORE, PAD_SCORE = -1000.0, -10000.0  # llama.cpp's own values

KV = dict[str, tuple[V, Any]]


@dataclass
class Tokenizer:
    """Vocabulary padded to the rows of the embedding; ids are None where there is no such token.

    `merges` ("left right", by rank) and `pre` are those of a byte-level BPE; SentencePiece has none and "default".
    """

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    bos: int | None = None
    eos: int | None = None
    eot: int | None = None
    unk: int | None = None
    pad: int | None = None
    add_bos: bool = True
    add_eos: bool = False
    add_space_prefix: bool = True
    chat_template: str = ""
    merges: list[bytes] = field(default_factory=list)
    pre: str = "default"
    notes: list[str] = field(default_factory=list)

    def kv(self) -> KV:
        """The tokenizer.* keys."""
        out: KV = {
            keys.TOKENIZER_MODEL: (V.STRING, "gpt2" if self.merges else "llama"),
            keys.TOKENIZER_PRE: (V.STRING, self.pre),
            keys.TOKENIZER_TOKENS: (V.ARRAY, self.tokens),
            keys.TOKENIZER_SCORES: (V.ARRAY, self.scores),
            keys.TOKENIZER_TYPES: (V.ARRAY, self.types),
        }
        if self.merges:
            out[keys.TOKENIZER_MERGES] = (V.ARRAY, self.merges)
        ids = {
            keys.TOKENIZER_BOS: self.bos, keys.TOKENIZER_EOS: self.eos, keys.TOKENIZER_EOT: self.eot,
            keys.TOKENIZER_UNK: self.unk, keys.TOKENIZER_PAD: self.pad,
        }  # fmt: skip
        out |= {key: (V.UINT32, i) for key, i in ids.items() if i is not None}
        out[keys.TOKENIZER_ADD_BOS] = (V.BOOL, self.add_bos)
        out[keys.TOKENIZER_ADD_EOS] = (V.BOOL, self.add_eos)
        out[keys.TOKENIZER_ADD_SPACE_PREFIX] = (V.BOOL, self.add_space_prefix)
        if self.chat_template:
            out[keys.CHAT_TEMPLATE] = (V.STRING, self.chat_template)
        return out


def load_tokenizer(path: Path, config: dict[str, Any], n_vocab: int) -> Tokenizer:
    """Read the tokenizer in directory `path` for a model with `n_vocab` embedding rows."""
    tok = _byte_level(path, n_vocab) if is_bpe(path) else _sentencepiece(path, n_vocab)
    settings = _optional_json(path / "tokenizer_config.json")
    for index, text, special in _added_tokens(path, settings):
        _add(tok, index, text, special, n_vocab)
    _pad(tok, n_vocab)
    _special_ids(tok, config, settings)
    tok.add_bos = settings.get("add_bos_token", tok.add_bos) is not False
    tok.add_eos = settings.get("add_eos_token", False) is True
    tok.add_space_prefix = settings.get("add_prefix_space", tok.add_space_prefix) is not False
    _chat(tok, path, settings)
    _check_distinct(tok)
    return tok


def _check_distinct(tok: Tokenizer) -> None:
    """llama.cpp maps text to one id: a token that occurs twice, or is empty, cannot be loaded."""
    seen: dict[bytes, int] = {}
    for i, text in enumerate(tok.tokens):
        if not text or text in seen:
            what = f"tokens {seen[text]} and {i} are both {text.decode()!r}" if text else f"token {i} is empty"
            raise CheckpointError(f"tokenizer: {what}", found=i)
        seen[text] = i


def _byte_level(path: Path, n_vocab: int) -> Tokenizer:
    """All tokens as normal ones; the added tokens that follow say which are special."""
    bpe = read_bpe(path)
    n = len(bpe.tokens)
    if n > n_vocab:
        raise CheckpointError(
            f"tokenizer.json has {n} tokens, the embedding only {n_vocab} rows", expected=n_vocab, found=n
        )
    if not bpe.merges:
        raise CheckpointError("tokenizer.json: model.merges is empty", path=str(path))
    tok = Tokenizer([t.encode() for t in bpe.tokens], [0.0] * n, [int(TokenType.NORMAL)] * n, pre=bpe.pre)
    tok.merges = [" ".join(pair).encode() for pair in bpe.merges]
    tok.add_bos = tok.add_space_prefix = False
    return tok


def _sentencepiece(path: Path, n_vocab: int) -> Tokenizer:
    model = path / "tokenizer.model"
    if not model.is_file():
        raise UnsupportedModelError(
            f"tokenizer.model is missing from {path}: only SentencePiece tokenizers, and byte-level BPE in "
            "tokenizer.json, are supported",
            path=str(model),
        )
    from sentencepiece import SentencePieceProcessor

    sp = SentencePieceProcessor()
    try:
        sp.LoadFromFile(str(model))
    except (OSError, RuntimeError) as err:
        raise CheckpointError(f"tokenizer.model is not a SentencePiece model: {err}", path=str(model)) from err
    n = sp.GetPieceSize()
    if n > n_vocab:
        raise CheckpointError(
            f"tokenizer.model has {n} pieces, the embedding only {n_vocab} rows", expected=n_vocab, found=n
        )
    tok = Tokenizer([], [], [])
    for i in range(n):
        tok.tokens.append(sp.IdToPiece(i).encode())
        tok.scores.append(float(sp.GetScore(i)))
        tok.types.append(int(_piece_type(sp, i)))
    ids = {"bos": sp.bos_id(), "eos": sp.eos_id(), "unk": sp.unk_id(), "pad": sp.pad_id()}
    for name, index in ids.items():
        setattr(tok, name, index if 0 <= index < n else None)
    return tok


def _piece_type(sp: Any, i: int) -> TokenType:
    if sp.IsUnknown(i):
        return TokenType.UNKNOWN
    if sp.IsControl(i):
        return TokenType.CONTROL
    if sp.IsUnused(i):
        return TokenType.UNUSED
    return TokenType.BYTE if sp.IsByte(i) else TokenType.NORMAL


def _added_tokens(path: Path, settings: dict[str, Any]) -> Iterable[tuple[int, str, bool]]:
    """(id, text, special) from the three files that may list them; later ones override earlier ones."""
    for text, index in _optional_json(path / "added_tokens.json").items():
        yield _index(index, "added_tokens.json"), text, _looks_special(text)
    entries = [(t.get("id"), t) for t in _optional_json(path / "tokenizer.json").get("added_tokens", [])]
    entries += list(settings.get("added_tokens_decoder", {}).items())
    for index, entry in entries:
        text = entry.get("content", "")
        yield _index(index, "tokenizer_config.json"), text, bool(entry.get("special")) or _looks_special(text)


def _index(value: Any, where: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise CheckpointError(f"{where}: token id {value!r} is not an integer", found=value) from None


def _looks_special(text: str) -> bool:
    return text.startswith("<|") and text.endswith("|>")


def _add(tok: Tokenizer, index: int, text: str, special: bool, n_vocab: int) -> None:
    if not 0 <= index < n_vocab:
        raise CheckpointError(
            f"added token {text!r} has id {index}, the embedding only {n_vocab} rows", token=text, found=index
        )
    if index < len(tok.tokens) and tok.tokens[index] == text.encode() and tok.types[index] != TokenType.NORMAL:
        return  # <s>, </s>, <unk>: the SentencePiece model knows better
    _pad(tok, index + 1)
    kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
    text = text if special else text.replace("\u2581", " ")
    tok.tokens[index], tok.scores[index], tok.types[index] = text.encode(), ADDED_SCORE, int(kind)


def _pad(tok: Tokenizer, n: int) -> None:
    """Rows of the embedding that no token uses still need a unique name."""
    for i in range(len(tok.tokens), n):
        tok.tokens.append(f"[PAD{i}]".encode())
        tok.scores.append(PAD_SCORE)
        tok.types.append(int(TokenType.UNUSED))


def _special_ids(tok: Tokenizer, config: dict[str, Any], settings: dict[str, Any]) -> None:
    ids = {text: i for i, text in enumerate(tok.tokens)}
    for name in ("bos", "eos", "pad", "unk"):
        value = settings.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        index = ids.get(text.encode()) if isinstance(text, str) else config.get(f"{name}_token_id")
        if type(index) is int and 0 <= index < len(tok.tokens):
            setattr(tok, name, index)
    im_end = ids.get(IM_END.encode())
    if im_end is None or IM_START.encode() not in ids:
        return
    if config.get("eos_token_id") != im_end:
        tok.notes.append(f"eos is {IM_END} ({im_end}); config.json says {config.get('eos_token_id')}")
    tok.eos = tok.eot = im_end


def _chat(tok: Tokenizer, path: Path, settings: dict[str, Any]) -> None:
    template = settings.get("chat_template")
    jinja = path / "chat_template.jinja"
    if isinstance(template, list):  # named templates; the unnamed use is "default"
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    if not template and jinja.is_file():
        template = jinja.read_text("utf-8")
    if not template and tok.eot is not None:
        template = CHATML
        tok.notes.append("the checkpoint has no chat template; ChatML is written, as its tokens are ChatML's")
    tok.chat_template = template if isinstance(template, str) else ""


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
