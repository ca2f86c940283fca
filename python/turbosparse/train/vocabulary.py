"""The source model's own tokenizer, run by libllama from a GGUF file's vocabulary: text -> ids."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from turbosparse.convert.ggufile import GGUFFile
from turbosparse.train.corpora import Document
from turbosparse.train.shards import vocabulary_sha256
from turbosparse.train.trim import TOKENS, write_gguf

Ids = npt.NDArray[np.int32]
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


class VocabularyError(Exception):
    """A model whose tokenizer cannot be used. Carries `path`; exit code 3."""

    exit_code = 3

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class Vocabulary:
    """A loaded vocabulary; `encode` may be called from several threads."""

    def __init__(self, gguf: Path) -> None:
        import llama_cpp

        with GGUFFile(gguf) as file:
            self.tokens: list[str] = file.get(TOKENS) or []
            self.adds_bos = bool(file.get("tokenizer.ggml.add_bos_token", False))
            self.bos, self.eos = (file.get(f"tokenizer.ggml.{which}_token_id") for which in ("bos", "eos"))
        if not self.tokens:
            raise VocabularyError(gguf, f"has no {TOKENS}")
        self._llama: Any = llama_cpp
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
        self._model: Any = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
        if not self._model:
            raise VocabularyError(gguf, "libllama cannot load its vocabulary")
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.chatml = IM_START in self.tokens and IM_END in self.tokens

    @property
    def n_vocab(self) -> int:
        """Number of ids."""
        return len(self.tokens)

    @property
    def sha256(self) -> str:
        """See shards.vocabulary_sha256."""
        return vocabulary_sha256(self.tokens)

    @property
    def separator(self) -> int:
        """The token between documents: BOS where the model adds one, else `<|endoftext|>`, else EOS."""
        if self.adds_bos and self.bos is not None:
            return int(self.bos)
        if END_OF_TEXT in self.tokens:
            return self.tokens.index(END_OF_TEXT)
        return int(self.eos if self.eos is not None else 0)

    def encode(self, text: str, special: bool = False) -> Ids:
        """Ids [n] of a text without BOS; `special` reads markers such as <|im_start|> as the tokens they name."""
        raw = text.encode("utf-8", "replace")
        size = len(raw) + 8
        buffer = (self._llama.llama_token * size)()
        n = self._llama.llama_tokenize(self._vocab, raw, len(raw), buffer, size, False, special)
        if n < 0:  # no tokenizer makes more tokens than bytes but for a space in front
            raise VocabularyError(Path("-"), f"a text of {len(raw)} bytes needs {-n} tokens")
        return np.ctypeslib.as_array(buffer)[:n].astype(np.int32)

    def render(self, turns: Sequence[str]) -> str:
        """A dialogue as the model reads it: ChatML where it has the markers, else plain names."""
        roles = [("user", "assistant")[i % 2] for i in range(len(turns))]
        if self.chatml:
            return "".join(f"{IM_START}{r}\n{t}{IM_END}\n" for r, t in zip(roles, turns, strict=True))
        return "".join(f"{r.capitalize()}: {t}\n" for r, t in zip(roles, turns, strict=True))

    def join(self, documents: Iterable[Document], threads: int = 2) -> Ids:
        """All documents as one stream [n], each behind the separator."""
        with ThreadPoolExecutor(threads) as pool:  # libllama releases the interpreter's lock
            parts = list(pool.map(self._document, documents))
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _document(self, document: Document) -> Ids:
        chat = document.kind == "chat"
        ids = self.encode(self.render(document.turns) if chat else document.text, special=chat)
        return np.concatenate([np.array([self.separator], np.int32), ids])

    def close(self) -> None:
        """Frees the model."""
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None


def open_vocabulary(source: Path) -> Vocabulary:
    """The vocabulary of a GGUF file or of a Hugging Face directory with a tokenizer.model."""
    if source.is_file():
        return Vocabulary(source)
    if not (source / "tokenizer.model").is_file():
        raise VocabularyError(source, "expected a GGUF file or a directory with tokenizer.model; convert it to GGUF")
    from turbosparse.convert.checkpoint import read_json
    from turbosparse.convert.tokenizer import load_tokenizer

    config = read_json(source / "config.json")
    tokenizer = load_tokenizer(source, config, int(config["vocab_size"]))
    with tempfile.TemporaryDirectory() as scratch:
        gguf = Path(scratch) / "vocabulary.gguf"
        write_gguf(gguf, {key: (vtype, value, None) for key, (vtype, value) in tokenizer.kv().items()})
        return Vocabulary(gguf)
