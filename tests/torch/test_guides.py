"""Who a student learns from: kept answers, another teacher, talks of its own; and which layers it keeps."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from turbosparse.torch import load
from turbosparse.torch.layers import Run, swiglu
from turbosparse.train import drelu as command
from turbosparse.train import instruct, teacher_cache
from turbosparse.train.distiller import Distiller
from turbosparse.train.drelu_recipe import DreluRecipe
from turbosparse.train.end_to_end import ask, pair_depths
from turbosparse.train.faults import SettingsError, SourceError
from turbosparse.train.guide import CacheGuide, LiveGuide
from turbosparse.train.instruct import Markers, Talk, first_words, write_talks
from turbosparse.train.lockstep import Lockstep, pick
from turbosparse.train.prune import Pruner, prune
from turbosparse.train.shards import Shards, ShardWriter
from turbosparse.train.source import open_source
from turbosparse.train.surgery import TEACHER
from turbosparse.train.teacher_cache import TeacherCache, open_caches, part_name
from turbosparse.train.trainer import Budget

from tests import tiny

pytestmark = pytest.mark.torch
SHAPE = {"n_layer": 4, "n_vocab": 384}
ALONE = (0.0, 0.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def source_dir(tmp_path_factory):
    return tiny.write_reglu(tmp_path_factory.mktemp("teacher"), hidden_act="silu", **SHAPE)


@pytest.fixture(scope="module")
def source(source_dir):
    return open_source(source_dir)


@pytest.fixture(scope="module")
def shards_dir(tmp_path_factory, source):
    rng = np.random.default_rng(0)
    writer = ShardWriter(tmp_path_factory.mktemp("shards"), "words", source.config.vocab_size, 0)
    writer.add("words", rng.integers(3, 360, 4000), rng.integers(3, 360, 500))
    writer.close()
    return writer.path


def write_cache(monkeypatch, source_dir, shards_dir, out, *more):
    sizes = ("--parts", "3", "--windows", "4", "--seq", "16", "--states", "1,3")
    head = ("cache", str(source_dir), "--data", str(shards_dir), "-o", str(out))
    monkeypatch.setattr(sys, "argv", [*head, *sizes, *more])
    return teacher_cache.main()


@pytest.fixture
def cache_dir(source_dir, shards_dir, tmp_path, monkeypatch):
    assert write_cache(monkeypatch, source_dir, shards_dir, tmp_path / "cache") == 0
    return tmp_path / "cache"


# --- kept answers ---------------------------------------------------------------


def test_kept_answers_are_the_teachers(source, cache_dir):
    kept = TeacherCache(cache_dir).rows(2, 5)  # over the border of a part
    live = ask(source.model(), kept.tokens, [1, 3])
    span = float(live.logits.max() - live.logits.min())
    assert float((kept.logits - live.logits).abs().max()) < 2e-3 * span  # float16
    for depth in (1, 3):
        assert torch.allclose(kept.states[depth], live.states[depth], atol=2e-3 * float(live.states[depth].abs().max()))


def test_answers_in_bf16_are_much_the_same(source_dir, shards_dir, cache_dir, tmp_path, monkeypatch):
    assert write_cache(monkeypatch, source_dir, shards_dir, tmp_path / "fast", "--dtype", "bf16") == 0
    exact, fast = TeacherCache(cache_dir).rows(0, 12), TeacherCache(tmp_path / "fast").rows(0, 12)
    span = float(exact.logits.max() - exact.logits.min())
    assert torch.equal(exact.tokens, fast.tokens)
    assert 0 < float((exact.logits - fast.logits).abs().max()) < 2e-2 * span


def test_windows_come_in_order_then_shuffled_by_part(cache_dir):
    cache = TeacherCache(cache_dir, seed=5)
    first = cache.rows(0, 12).tokens
    with np.load(cache_dir / part_name(1)) as part:
        assert np.array_equal(first[4:8].numpy(), part["tokens"])
    again = cache.rows(12, 12).tokens
    assert sorted(map(tuple, again.tolist())) == sorted(map(tuple, first.tolist()))
    assert torch.equal(TeacherCache(cache_dir, seed=5).rows(12, 12).tokens, again)


def test_two_processes_write_what_one_writes(source_dir, shards_dir, cache_dir, tmp_path, monkeypatch):
    for k in "01":
        assert write_cache(monkeypatch, source_dir, shards_dir, tmp_path / "two", "--share", f"{k}/2") == 0
    for k in range(3):
        with np.load(tmp_path / "two" / part_name(k)) as a, np.load(cache_dir / part_name(k)) as b:
            assert all(np.array_equal(a[name], b[name]) for name in ("tokens", "last", "states"))


def test_caches_are_mixed_by_weight(cache_dir):
    mix = open_caches([f"{cache_dir}=3", f"{cache_dir}=1"], seed=1)
    rows = mix.batch(1, 4).tokens
    cache = TeacherCache(cache_dir)
    assert torch.equal(rows[:3], cache.rows(3, 3).tokens)
    assert torch.equal(rows[3:], cache.rows(1, 1).tokens)
    assert mix.depths == (1, 3)


def test_a_missing_part_is_said(cache_dir):
    (cache_dir / part_name(2)).unlink()
    cache = TeacherCache(cache_dir, wait_s=0.1)
    cache.rows(0, 8)
    with pytest.raises(SettingsError, match=r"part-00002.npz is missing"):
        cache.rows(8, 1)


def test_a_damaged_part_is_said(cache_dir):
    file = cache_dir / part_name(0)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises(SettingsError, match="damaged"):
        TeacherCache(cache_dir).rows(0, 4)


@pytest.mark.parametrize("change", [{"n_vocab": 1}, {"n_embd": 1}, {"vocabulary": "other"}])
def test_another_models_cache_is_refused(cache_dir, change):
    cache = TeacherCache(cache_dir)
    mine = {"n_vocab": 384, "n_embd": cache.meta.n_embd, "vocabulary": None} | change
    with pytest.raises(SettingsError, match=next(iter(change))):
        cache.check(**mine)


def test_depths_of_a_pruned_student():
    assert pair_depths([0, 1, 5, 9], [1, 4, 6, 10]) == {1: 1, 4: 2, 6: 3, 10: 4}
    assert pair_depths([3, 5], [2, 4]) == {4: 1}  # before the first kept layer there is nothing to compare


def test_a_pruned_student_is_led_to_where_its_next_layer_begins(source):
    guide = LiveGuide(source.model(), [0, 1, 2, 3], [0, 2])
    assert guide.depths == {2: 1, 4: 2}
    same = LiveGuide(source.model(), [0, 1, 2, 3], [0, 1, 2, 3])
    assert same.depths == {1: 1, 2: 2, 3: 3, 4: 4}


def test_a_live_and_a_cached_guide_give_the_same_loss(source, shards_dir, cache_dir):
    recipe = DreluRecipe(batch=4, n_tokens=16, shares=ALONE, activation="swiglu", warmup_steps=1)
    pruned, shards = source.with_layers([0, 2, 3]), Shards(shards_dir)
    cached = CacheGuide(open_caches([str(cache_dir)], 1), pruned.layers)
    run = Distiller(pruned, shards, recipe, Budget(steps=4), guide=cached)
    rows = TeacherCache(cache_dir).rows(0, 4).tokens
    row, _ = run.step()
    student = pruned.model()
    with torch.no_grad():
        p = torch.log_softmax(source.model()(rows[:, :-1], TEACHER), -1)
        q = torch.log_softmax(student(rows[:, :-1], TEACHER), -1)
    assert row["loss"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=2e-2)
    assert row["tokens"] == 64


# --- the control ------------------------------------------------------------------


@pytest.fixture
def drelu(call):
    def run(source, shards_dir, out, *more):
        sizes = ("--steps", "8", "--batch", "4", "--threads", "1", "--log-every", "1", "--out-dtype", "f32")
        return call(command, [source, "-o", out, "--data", shards_dir, *sizes, *more])

    return run


def test_a_control_heals_and_is_a_source_again(source_dir, source, shards_dir, cache_dir, tmp_path, drelu):
    healed = tmp_path / "healed"
    options = ("--keep-layers", "0,2,3", "--teacher-cache", str(cache_dir), "--lr", "10", "--heldout-windows", "2")
    assert drelu(source_dir, shards_dir, healed, "--activation", "swiglu", *options) == 0
    raw = json.loads((healed / "config.json").read_text())
    assert (raw["model_type"], raw["hidden_act"], raw["source_layers"]) == ("llama", "silu", [0, 2, 3])
    again = open_source(healed)
    assert again.layers == [0, 2, 3]
    rows = TeacherCache(cache_dir).rows(0, 8).tokens[:, :-1]
    target = torch.log_softmax(source.model()(rows, TEACHER), -1).detach()

    def kl(model):
        with torch.no_grad():
            return float((target.exp() * (target - torch.log_softmax(model(rows, TEACHER), -1))).sum(-1).mean())

    assert kl(again.model()) < kl(source.with_layers([0, 2, 3]).model())
    student = tmp_path / "student"
    more = ("--teacher-cache", str(cache_dir), "--rank", "32", "--shares", "0.25,0.25,0.25,0.25")
    assert drelu(healed, shards_dir, student, *more) == 0
    assert load(student).config.extra["source_layers"] == [0, 2, 3]


def test_a_teacher_of_another_width_is_refused(source_dir, shards_dir, tmp_path, drelu, capsys):
    other = tiny.write_reglu(tmp_path / "other", hidden_act="silu", n_embd=32, n_head=2, n_head_kv=1)
    assert drelu(source_dir, shards_dir, tmp_path / "o", "--teacher", str(other)) == 3
    assert "hidden_size is 32" in capsys.readouterr().err


def test_another_teacher_leads_the_whole_stage(source_dir, source, shards_dir, tmp_path, drelu):
    more = ("--teacher", str(source_dir), "--keep-layers", "0,3", "--activation", "swiglu", "--seq", "16")
    assert drelu(source_dir, shards_dir, tmp_path / "o", *more, "--heldout-windows", "0") == 0
    first = (tmp_path / "o" / "train" / "log.csv").read_text().splitlines()[1].split(",")
    assert float(first[4]) > 0  # it is not its own teacher: KL > 0 before the first step


def test_a_window_of_another_length_is_refused(source_dir, shards_dir, cache_dir, tmp_path, drelu, capsys):
    more = ("--teacher-cache", str(cache_dir), "--seq", "8")
    assert drelu(source_dir, shards_dir, tmp_path / "o", *more) == 2
    assert "--seq 16" in capsys.readouterr().err


def test_observers_see_drelu_whatever_the_activation(source):
    class Seen:
        wants_logits = False

        def ffn(self, place, act, logits):
            assert bool((act >= 0).all())

        def router(self, layer, probs, chosen):
            raise AssertionError

    tokens = torch.arange(3, 20)[None]
    source.model()(tokens, Run(dense=True, observer=Seen(), activation=swiglu))


# --- pruning ------------------------------------------------------------------------


def test_the_layer_that_does_nothing_goes_first(source):
    model = source.model()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    pruner = Pruner(model, torch.from_numpy(np.random.default_rng(0).integers(3, 360, (2, 24))))
    assert pruner.divergence(range(4)) == pytest.approx(0.0, abs=1e-6)
    assert pruner.cheapest([0, 1, 2, 3]) == (2, pytest.approx(0.0, abs=1e-6))
    left = prune(pruner, 2, lambda _: None)
    assert len(left) == 2
    assert 2 not in left
    assert prune(pruner, 2, lambda _: None, without=[0]) == [1, 3]
    pair = pruner.cheapest([0, 1, 3])[1]
    assert pair == pytest.approx(min(pruner.divergence(k) for k in ([1, 3], [0, 3], [0, 1])), rel=1e-5)


# --- talks --------------------------------------------------------------------------

MARKERS = Markers({"user": [1, 5, 9], "assistant": [1, 6, 9]}, 2, [9], 0, frozenset({0, 1, 2}), [1, 7, 9, 2, 9])


def test_lockstep_gives_the_models_logits(source):
    model = source.model()
    tokens = torch.from_numpy(np.random.default_rng(1).integers(3, 360, (3, 12)))
    lockstep = Lockstep(model, 3, 12, TEACHER)
    made = torch.stack([lockstep.step(tokens[:, i]) for i in range(12)], dim=1)
    expected = model(tokens, TEACHER).detach()
    assert float((made - expected).abs().max()) < 1e-4 * float(expected.max() - expected.min())


def test_picking_keeps_to_the_most_likely():
    logits = torch.tensor([[0.0, 5.0, 4.0, -1.0]]).repeat(200, 1)
    ids = pick(logits, 1.0, 2, torch.Generator().manual_seed(0))
    assert set(ids.tolist()) == {1, 2}
    assert set(pick(logits, 1e-3, 4, torch.Generator().manual_seed(0)).tolist()) == {1}


def test_a_talk_goes_from_user_to_assistant_and_begins_again():
    talk = Talk(MARKERS, [[50, 51]], np.random.default_rng(3))
    tokens = [talk.next(2 if i % 7 == 0 else 100 + i) for i in range(400)]
    text = ",".join(map(str, tokens))
    assert tokens[0] == 0
    assert text.count("1,6,9") > 10
    assert "1,5,9,50,51,2,9,1,6,9" in text  # seeded
    assert "0,1,7,9,2,9,1,5,9" in text  # with the preamble
    assert all(text[at - 4 : at] in ("2,9,", "9,0,") or text[at - 2 : at] == "0," for at in find_all(text, "1,5,9"))
    assert not [t for t in tokens if t >= 100 and t in MARKERS.specials]


def find_all(text, part):
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def test_first_words_are_the_users():
    stream = np.array([0, 1, 5, 9, 40, 41, 2, 9, 1, 6, 9, 42, 2, 9, 0, 60, 61, 0, 1, 5, 9, 43, 2, 9])
    assert first_words(stream, MARKERS) == [[40, 41], [43]]
    assert first_words(stream, MARKERS, limit=1) == [[43]]


def test_talks_are_the_same_for_a_seed(source):
    once = write_talks(source.model(), MARKERS, [[50, 51]], 3, 30, seed=4)
    assert once.shape == (3, 30)
    assert np.array_equal(once, write_talks(source.model(), MARKERS, [[50, 51]], 3, 30, seed=4))
    assert (once[:, 0] == 0).all()


def test_a_model_without_chatml_is_refused():
    plain = dataclasses.make_dataclass("Plain", ["tokens", "special"])(["a", "b"], frozenset())
    with pytest.raises(SettingsError, match="only ChatML"):
        instruct.read_markers(plain, lambda text: [0], 0)


def test_a_source_without_bpe_cannot_write_talks(source_dir, shards_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["i", str(source_dir), "--data", str(shards_dir), "-o", str(tmp_path / "t")])
    assert instruct.main() == 2
    assert "byte-level BPE" in capsys.readouterr().err


def test_talks_can_join_the_other_streams(shards_dir, tmp_path):
    shards = Shards(shards_dir)
    rows = np.arange(100 * 20).reshape(100, 20) % 300
    instruct.write_shards(shards, rows, tmp_path / "joined", weight=2.5, join=True)
    joined = Shards(tmp_path / "joined")
    joined.verify()
    assert joined.weights == {"words": 1.0, "instruct": 2.5}
    assert np.array_equal(joined.streams["words"], shards.streams["words"])
    assert np.array_equal(joined.streams["instruct"], rows[2:].ravel())
    assert np.array_equal(joined.heldout("instruct"), rows[:2].ravel())
    instruct.write_shards(shards, rows, tmp_path / "joined", weight=1.0, join=False)
    assert list(Shards(tmp_path / "joined").streams) == ["instruct"]
    shards.verify()  # links were replaced, not written through


def test_teachers_must_share_the_vocabulary(source):
    other = dataclasses.replace(source, config=dataclasses.replace(source.config, vocab_size=400))
    with pytest.raises(SourceError, match="vocab_size is 400"):
        source.check_teacher(other)


# --- lack of memory and space ---------------------------------------------------------


def no_memory(*_):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def test_the_cache_says_what_to_lower(source_dir, shards_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teacher_cache, "answer", no_memory)
    assert write_cache(monkeypatch, source_dir, shards_dir, tmp_path / "c", "--batch", "2") == 7
    assert "2 windows of 16 tokens: lower --batch" in capsys.readouterr().err


def test_talks_say_what_to_lower(source_dir, shards_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(instruct, "write_talks", no_memory)
    monkeypatch.setattr(instruct, "read_markers", lambda *_: MARKERS)
    whole = open_source(source_dir)
    plain = dataclasses.make_dataclass("Plain", ["sha256", "encode_plain"])(None, None)
    monkeypatch.setattr("turbosparse.train.source.open_source", lambda _: dataclasses.replace(whole, tokenizer=plain))
    args = ["i", str(source_dir), "--data", str(shards_dir), "-o", str(tmp_path / "t"), "--rows", "7"]
    monkeypatch.setattr(sys, "argv", args)
    assert instruct.main() == 7
    assert "7 contexts of 257 tokens: lower --rows" in capsys.readouterr().err


LIMITED = """
import resource, sys
from pathlib import Path
from turbosparse.train import drelu
from turbosparse.train.faults import reported
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
"""
STATE = "sys.argv = {argv!r}\nsys.exit(drelu.main())"
CHECKPOINT = """
from turbosparse.torch import save
from turbosparse.train.source import open_source
sys.exit(reported(lambda: save(open_source(Path({argv[1]!r})).model(), {argv[3]!r})))
"""


@pytest.mark.parametrize("command", [STATE, CHECKPOINT])
def test_a_full_disk_is_said(source_dir, shards_dir, tmp_path, command):
    """A file size limit stands for it: the error is of the same kind."""
    argv = ["drelu", str(source_dir), "-o", str(tmp_path / "out"), "--data", str(shards_dir), "--steps", "1"]
    argv += ["--seq", "16", "--batch", "1", "--threads", "1"]
    code = LIMITED + command.format(argv=argv)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "error: " in done.stderr
    assert "run" in done.stderr
    assert "Traceback" not in done.stderr


def test_real_lack_of_memory_is_said(source_dir, shards_dir, tmp_path):
    """Embeddings of 8 GB in an address space of 6."""
    argv = ["drelu", str(source_dir), "-o", str(tmp_path / "out"), "--data", str(shards_dir), "--steps", "1"]
    argv += ["--seq", "3900", "--batch", "8000", "--threads", "1"]
    code = LIMITED.replace("RLIMIT_FSIZE, (20000, 20000)", "RLIMIT_AS, (6 << 30, 6 << 30)") + STATE.format(argv=argv)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "8000 x 3900 tokens: lower --batch" in done.stderr
