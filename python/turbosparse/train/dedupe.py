"""Drops text that was seen before: paragraphs and long lines exactly, documents approximately.

The approximate part is MinHash by one permutation: the shingles of five words of a document are hashed, the hashes
fall into N_BINS bins, each bin keeps its smallest. Documents that agree in all BAND bins of a band are candidates;
those that agree in a share of SAME of all bins are duplicates. The estimate of the Jaccard index is unbiased.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SHINGLE = 5  # words
N_BINS = 64
BAND = 4
SAME = 0.8
LONG_LINE = 60  # characters: shorter lines repeat for good reasons
LONG_PARAGRAPH = 80
LONG_BLOCK = 200  # of code: short functions repeat, licence headers must not
MIN_SHINGLES = 32

Signature = npt.NDArray[np.uint64]
EMPTY = np.iinfo(np.uint64).max


@dataclass
class Dropped:
    """Characters dropped, by reason."""

    paragraphs: int = 0
    lines: int = 0
    documents: int = 0


@dataclass
class Deduplicator:
    """Remembers everything it let through; feed it the held-out sets first, then no copy of them is trained on."""

    dropped: Dropped = field(default_factory=Dropped)
    _seen: set[bytes] = field(default_factory=set)
    _signatures: list[Signature] = field(default_factory=list)
    _bands: dict[tuple[int, bytes], list[int]] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """Prose without paragraphs and long lines seen before; empty where the document is a near-duplicate."""
        kept = []
        for paragraph in re.split(r"\n{2,}", text):
            if len(paragraph) >= LONG_PARAGRAPH and self._known(paragraph):
                self.dropped.paragraphs += len(paragraph)
                continue
            part = "\n".join(line for line in paragraph.split("\n") if not self._known_line(line, paragraph))
            if part.strip():
                kept.append(part)
        return self._document("\n\n".join(kept))

    def code(self, text: str) -> str:
        """Source code without blocks (up to a blank line) seen before; single lines are left alone."""
        kept = []
        for block in re.split(r"\n{2,}", text):
            if len(block) >= LONG_BLOCK and self._known(block):
                self.dropped.paragraphs += len(block)
                continue
            kept.append(block)
        return self._document("\n\n".join(kept))

    def _known_line(self, line: str, paragraph: str) -> bool:
        if len(line) < LONG_LINE or line == paragraph or not self._known(line):
            return False
        self.dropped.lines += len(line)
        return True

    def _known(self, text: str) -> bool:
        """Whether the text was here before, but for case, digits and white space; remembers it."""
        plain = re.sub(r"\d+", "0", " ".join(text.lower().split()))
        digest = hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()
        if digest in self._seen:
            return True
        self._seen.add(digest)
        return False

    def _document(self, text: str) -> str:
        signature = minhash(text)
        if signature is None:
            return text
        bands = [(i, signature[i : i + BAND].tobytes()) for i in range(0, N_BINS, BAND)]
        candidates = {other for band in bands for other in self._bands.get(band, ())}
        if any(similarity(signature, self._signatures[other]) >= SAME for other in candidates):
            self.dropped.documents += len(text)
            return ""
        for band in bands:
            self._bands.setdefault(band, []).append(len(self._signatures))
        self._signatures.append(signature)
        return text


def minhash(text: str) -> Signature | None:
    """The smallest shingle hash in each bin, uint64 [N_BINS]; None for texts too short to compare."""
    words = np.array([zlib.crc32(w.encode("utf-8", "replace")) for w in text.lower().split()], dtype=np.uint64)
    n = len(words) - SHINGLE + 1
    if n < MIN_SHINGLES:
        return None
    hashes = np.zeros(n, dtype=np.uint64)
    for i in range(SHINGLE):
        hashes = _mix(hashes + words[i : i + n])
    out = np.full(N_BINS, EMPTY, dtype=np.uint64)
    np.minimum.at(out, (hashes >> np.uint64(58)).astype(np.int64), hashes & np.uint64((1 << 58) - 1))
    return out


def similarity(a: Signature, b: Signature) -> float:
    """Estimated Jaccard index of two signatures, in [0, 1]; bins empty in both say nothing."""
    filled = (a != EMPTY) | (b != EMPTY)
    return float((a == b)[filled].mean()) if filled.any() else 0.0


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)
