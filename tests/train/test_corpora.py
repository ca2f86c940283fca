"""Archives and readers, on packages made here."""

from __future__ import annotations

import gzip
import json

import pytest
from turbosparse.train import corpora
from turbosparse.train.archive import ArchiveError, members

from tests.train.fakes import deb, paragraphs, tar, wheel

TEXT = paragraphs(3, 6)


def test_members_of_every_kind_of_package(tmp_path):
    packed = {"doc/a.txt": b"alpha", "doc/b.gz": gzip.compress(b"beta"), "src/c.py": b"gamma"}
    debian = deb(tmp_path / "x.deb", packed)
    assert dict(members(debian, r"doc/.*")) == {"doc/a.txt": b"alpha", "doc/b.gz": b"beta"}
    ball = tmp_path / "x.tgz"
    ball.write_bytes(tar(packed, "gz"))
    assert dict(members(ball, r".*\.py")) == {"src/c.py": b"gamma"}
    zipped = wheel(tmp_path / "x.whl", {"doc/a.txt": "alpha"})
    assert dict(members(zipped, ".*")) == {"doc/a.txt": b"alpha"}


@pytest.mark.parametrize("name", ["x.deb", "x.whl", "x.tgz", "x.rpm"])
def test_a_broken_package_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not an archive at all, not even a short one, whatever the name says")
    with pytest.raises(ArchiveError):
        list(members(tmp_path / name, ".*"))


def test_long_texts_are_cut_at_paragraphs():
    text = paragraphs(5, 200)
    documents = list(corpora.pieces(text))
    assert len(documents) > 3
    assert "\n\n".join(d.text for d in documents) == text


def test_tables_and_scraps_are_no_text():
    assert list(corpora.pieces("short")) == []
    assert list(corpora.pieces("1 2 3 4 | 55 66 -- 77 == 88 ++ " * 40)) == []


def test_tidy():
    assert corpora.tidy("a\r\nb \t\n\n\n\nc\x00\ufeff\u200b me.you+x@mail.example.com.") == (
        "a\nb\n\nc someone@example.org."
    )
    assert corpora.tidy("e\u0301") == "\u00e9"


PAGE = f"""<html><head><title>menu</title><script>var x = "code";</script></head><body>
<nav><ul><li>Home</li></ul></nav><div class="sphinxsidebar"><p>side</p></div>
<p>{" ".join(TEXT.split())}</p><pre>def f():
    return 1</pre><p>{"One<br>two the a the a. " * 3}</p>
{"".join(f"<p>Entry{i}</p>" for i in range(9))}</body></html>"""


def test_html_keeps_text_and_samples_only(tmp_path):
    package = wheel(tmp_path / "x.whl", {"a/index.html": PAGE, "a/skip.txt": "no"})
    (document,) = corpora.read("html", package, r"a/.*\.html")
    assert "def f():\n    return 1" in document.text
    assert " ".join(TEXT.split())[:500] in document.text
    for gone in ("menu", "var x", "Home", "side", "Entry"):
        assert gone not in document.text


def test_pages_in_other_languages_are_left_out(tmp_path):
    package = wheel(tmp_path / "x.whl", {"i.html": f"<p>{'Dies ist ein deutscher Satz ohne Artikel. ' * 20}</p>"})
    assert list(corpora.read("html", package, ".*")) == []


def test_an_unclosed_tag_ends_with_its_parent():
    page = corpora._Page()
    page.feed("<nav><p>menu<li>more</nav><p>text</p>")
    assert page.text().split() == ["text"]


def test_source_files_say_their_name_and_generated_ones_are_left_out(tmp_path):
    body = "\n".join(f"def function_{i}(a, b):\n    return a + b * {i}\n" for i in range(20))
    package = wheel(tmp_path / "x.whl", {"p/a.py": body, "p/b.py": "# Auto-generated\n" + body, "p/c.py": "x = 1\n"})
    (document,) = corpora.read("code", package, r".*\.py")
    assert document.kind == "code"
    assert document.text.startswith("# p/a.py\ndef function_0(a, b):\n    return")


def test_conversations(tmp_path):
    text = "categories:\n- x\nconversations:\n- - Hello\n  - Hi there\n- - alone\n"
    package = wheel(tmp_path / "x.whl", {"d/english/x.yml": text})
    assert [d.turns for d in corpora.read("conversations", package, r".*\.yml")] == [("Hello", "Hi there")]


def test_factbook_leaves_carry_their_heading(tmp_path):
    tree = {"Land": {"Climate": {"text": f"<p>{TEXT}</p>"}, "Code": {"text": "x"}}, "n": 3}
    package = wheel(tmp_path / "x.whl", {"a.json": json.dumps(tree)})
    (document,) = corpora.read("factbook", package, ".*")
    assert document.text.startswith("Climate: ")
    assert "Code" not in document.text


def test_bible_strings_are_read_not_run(tmp_path):
    verses = " ".join(f"{i}. {TEXT.split('.')[0]} [was] here." for i in range(400))
    module = f'raise SystemExit\nbible = Bible(\n"""\n{verses}\n""")\n'
    package = wheel(tmp_path / "x.whl", {"b.py": module})
    text = "\n\n".join(d.text for d in corpora.read("bible", package, ".*"))
    assert "was here." in text
    assert "[" not in text
    assert "7." not in text


def test_glosses():
    line = '00001740 03 n 02 entity 0 living_thing 0 003 ~ 00001930 n 0000 | that which is; "it was there"'
    assert corpora._gloss(line) == 'entity, living thing: that which is; "it was there"'


def test_prose_joins_hard_breaks(tmp_path):
    lines = "\n".join(TEXT.split("\n\n")[0][i : i + 60] for i in range(0, 200, 60))
    package = wheel(tmp_path / "x.whl", {"t.txt": f"{lines}\n\n{TEXT}"})
    (document,) = corpora.read("prose", package, ".*")
    assert "\n" not in document.text.split("\n\n")[0]
