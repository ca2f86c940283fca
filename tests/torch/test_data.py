"""Cleaning, splitting and fetching, on hand-made input: no test downloads anything."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import zipfile
import zlib

import pytest
from turbosparse.train import data, fetch

pytestmark = pytest.mark.torch
LONG = "A sentence that is long enough to count as a paragraph of its own, and then some more of it to be sure."


def test_clean_gives_one_ascii_line():
    assert (
        data.clean(" \u201cIt\u2019s \u2014 _so_\u201d,\tsaid\u00a0she\u2026 caf\u00e9\n")
        == '"It\'s -- so", said she... caf'
    )


def test_paragraphs_join_lines_and_drop_headings():
    lines = ["CHAPTER I", "", "She had been a friend and", "companion of long standing.", "", "short", ""]
    assert data.paragraphs(lines) == ["She had been a friend and companion of long standing."]


def test_documents_are_cut_and_deduplicated():
    seen: set[str] = set()
    first = data.documents([[LONG, "and a short one", LONG]], seen)
    assert first == [f"{LONG}\nand a short one"]
    assert data.documents([[LONG, "and a short one"]], seen) == ["and a short one"]
    many = data.documents([[f"{i} {LONG}" for i in range(40)]], set())
    assert len(many) > 1
    assert all(len(doc) < data.DOCUMENT_CHARS + 2 * len(LONG) for doc in many)


def test_long_speeches_are_cut_at_sentences():
    parts = list(data._split_long(" ".join(["We did it."] * 200), limit=100))
    assert len(parts) > 10
    assert all(part.endswith("it.") and len(part) < 120 for part in parts)


def r_vector(strings):
    """What R's serialize writes for a character vector, XDR, version 3."""
    out = b"X\n" + struct.pack(">iii", 3, 0x40201, 0x30500) + struct.pack(">i", 5) + b"UTF-8"
    out += struct.pack(">ii", 16, len(strings))
    for s in strings:
        out += struct.pack(">ii", 0x40009, len(s.encode())) + s.encode()
    return out


def test_r_character_vectors():
    raw = [r_vector(["Emma", "", "handsome"]), r_vector(["one"])]
    blob = b"".join(struct.pack(">I", len(r)) + zlib.compress(r) for r in raw)
    assert list(data._r_string_vectors(blob)) == [["Emma", "", "handsome"], ["one"]]


def ar(**members):
    out = b"!<arch>\n"
    for name, body in members.items():
        out += f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return out


def test_members_of_a_debian_package():
    archive = ar(odd=b"abc", even=b"abcd")
    assert data._ar_member(archive, "odd") == b"abc"
    assert data._ar_member(archive, "even") == b"abcd"
    with pytest.raises(fetch.FetchError, match=r"no member data\.tar"):
        data._ar_member(archive, "data.tar")


def test_another_r_type_is_refused():
    raw = r_vector(["x"]).replace(struct.pack(">ii", 16, 1), struct.pack(">ii", 19, 1))
    with pytest.raises(fetch.FetchError, match="found type 19"):
        data._r_strings(raw)


def chat(*turns):
    return {"messages": [[{"text": t}] for t in turns]}


def test_dialogues_end_before_private_turns(tmp_path):
    wheel = tmp_path / "w.whl"
    talks = {
        "a": chat("hi", "hello", "how are you", "fine", "write me at x@y.z", "ok"),
        "b": chat("hi", "call 5551234", "ok", "bye", "bye"),
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("chitchat_dataset/dataset.json", json.dumps(talks))
    assert data.read_chitchat(wheel) == [["hi", "hello", "how are you", "fine"]]


def test_written_text_is_small_and_ascii(tmp_path):
    docs = [f"{i} {LONG}" for i in range(6000)]
    corpus = data.Corpus({"austen": docs, "sotu": docs}, {"austen": docs[:50], "sotu": docs[:50]})
    data.write_text(corpus, tmp_path)
    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert sizes.keys() == {"sample.txt", "heldout.txt"}
    assert all(0 < size <= data.TEXT_FILE_BYTES for size in sizes.values())
    assert sizes["sample.txt"] > data.TEXT_FILE_BYTES // 2
    (tmp_path / "heldout.txt").read_bytes().decode("ascii")


def test_a_cached_package_is_checked(tmp_path):
    (tmp_path / fetch.CHITCHAT.file).write_bytes(b"something else")
    with pytest.raises(fetch.FetchError, match="sha256: expected 7bf89f36"):
        fetch.fetch(fetch.CHITCHAT, tmp_path)


def test_a_cached_package_is_used(tmp_path):
    source = dataclasses.replace(fetch.CHITCHAT, sha256=hashlib.sha256(b"right").hexdigest())
    (tmp_path / source.file).write_bytes(b"right")
    assert fetch.fetch(source, tmp_path) == tmp_path / source.file


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.Source, "command", lambda self: ["no-such-client-anywhere"])
    with pytest.raises(fetch.FetchError, match="no-such-client-anywhere is not installed"):
        fetch.fetch(fetch.AUSTEN, tmp_path / "cache")


def test_every_source_is_pinned():
    for source in (fetch.AUSTEN, fetch.STDLIB, fetch.CHITCHAT):
        assert len(source.sha256) == 64
        assert source.version in " ".join(source.command())
        assert source.licence
