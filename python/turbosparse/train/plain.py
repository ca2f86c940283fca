"""Token shards from text files of your own: `python -m turbosparse.train.plain SRC --text FILE... -o SHARDS`.

SRC is the model whose vocabulary is used. Every file becomes a stream named after it; blank lines separate documents.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from turbosparse.train.corpora import Document
from turbosparse.train.shards import Shards, ShardWriter
from turbosparse.train.vocabulary import open_vocabulary

MIN_TOKENS = 1000  # below it there is nothing to learn from, and most likely a wrong file


class PlainTextError(Exception):
    """A text that cannot be used. Carries `path`; exit code 4."""

    exit_code = 4

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


def documents(file: Path) -> list[Document]:
    """The paragraphs of a text file, in UTF-8; PlainTextError if it is not that, or missing."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlainTextError(file, f"cannot be read as UTF-8 text: {error}") from error
    return [Document(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def write_plain_shards(source: Path, texts: list[Path], heldout: list[Path], out: Path) -> Shards:
    """Shards of `texts`, the i-th of `heldout`, if there is one, held out of the i-th."""
    vocabulary = open_vocabulary(source)
    writer = ShardWriter(out, vocabulary.sha256, vocabulary.n_vocab, vocabulary.separator)
    for i, file in enumerate(texts):
        tokens = vocabulary.join(documents(file))
        if len(tokens) < MIN_TOKENS:
            raise PlainTextError(file, f"has {len(tokens)} tokens, at least {MIN_TOKENS} are needed: add text")
        held = vocabulary.join(documents(heldout[i])) if i < len(heldout) else None
        writer.add(file.stem, tokens, held, licence="", package=file.name)  # type: ignore[arg-type]
    writer.close()
    return Shards(out)


def main() -> int:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="turbosparse.train.plain", description=__doc__, formatter_class=raw)
    parser.add_argument("source", type=Path, help="GGUF file, or Hugging Face directory with tokenizer.model")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files to train on")
    parser.add_argument("--heldout", type=Path, nargs="*", default=[], help="files to measure on, one for each --text")
    parser.add_argument("-o", "--out", type=Path, required=True, help="directory of shards to write")
    args = parser.parse_args()
    try:
        shards = write_plain_shards(args.source, args.text, args.heldout, args.out)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        print(f"error: {error}", file=sys.stderr)
        return code
    for name, tokens in shards.streams.items():
        print(f"{name}: {len(tokens)} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
