"""SwiGLU to dReLU: source, surgery, the stages, resume, what goes wrong, what comes out."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from turbosparse.torch import load, save
from turbosparse.torch.layers import Run, drelu, swiglu
from turbosparse.train import distiller as distiller_module
from turbosparse.train import drelu as command
from turbosparse.train.curves import draw_curves
from turbosparse.train.distiller import Distiller
from turbosparse.train.drelu_recipe import STAGES, DreluRecipe
from turbosparse.train.end_to_end import Compared, ask, compare, forward
from turbosparse.train.faults import DiskFullError, DivergedError, OutOfMemoryError, SettingsError, SourceError
from turbosparse.train.ffn_distill import Blend, Knobs, distill_ffns
from turbosparse.train.losses import Meter
from turbosparse.train.shards import ShardError, Shards, ShardWriter
from turbosparse.train.source import open_source
from turbosparse.train.surgery import TEACHER, canonicalise_signs, swap_errors, token_error
from turbosparse.train.trainer import Budget

from tests import tiny
from tests.oracle import Oracle
from tests.torch.common import write_gguf
from tests.train.fakes import bpe_model

pytestmark = pytest.mark.torch
RECIPE = DreluRecipe(batch=4, n_tokens=16, rank=32, zero_gain=2.0, zero_target=0.9, warmup_steps=3, anneal=0.5)


@pytest.fixture(scope="module")
def shards_dir(tmp_path_factory, source):
    """Words of a few tokens each, in an order that can be learned in part."""
    rng = np.random.default_rng(0)
    words = rng.integers(3, 360, (40, 4))
    stream = words[rng.integers(0, 40, 3000)].ravel()
    writer = ShardWriter(tmp_path_factory.mktemp("shards"), "words", source.config.vocab_size, 0)
    writer.add("words", stream[:-1000], stream[-1000:], licence="PD")
    writer.close()
    return writer.path


@pytest.fixture(scope="module")
def shards(shards_dir):
    return Shards(shards_dir)


def make(source, shards, steps=40, **recipe):
    return Distiller(source, shards, dataclasses.replace(RECIPE, **recipe), Budget(steps=steps))


def batch(n=4, seed=3):
    return torch.from_numpy(np.random.default_rng(seed).integers(3, 360, (n, 24)))


# --- source -------------------------------------------------------------------


def test_a_directory_gives_llamas_logits(source_dir, source, tmp_path):
    """Against the numpy oracle, which knows ReGLU: the same weights with that activation."""
    tokens = batch(1)
    with torch.no_grad():
        found = source.model().double()(tokens, Run(dense=True, activation=lambda g, u: torch.relu(g) * u))[0].numpy()
    relu = tmp_path / "relu"
    relu.mkdir()
    for file in source_dir.iterdir():
        (relu / file.name).write_bytes(file.read_bytes().replace(b'"silu"', b'"relu"'))
    expected = Oracle.from_hf(relu).logits(tokens[0].tolist(), mode="dense")
    assert np.abs(found - expected).max() < 1e-8 * np.ptp(expected)


def test_swiglu_is_silu_times_up():
    gate, up = torch.randn(2, 5, 7, dtype=torch.float64)
    assert torch.allclose(swiglu(gate, up), gate / (1 + torch.exp(-gate)) * up)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_gives_the_same_source(source, tmp_path, tied):
    again = open_source(write_gguf(source, tmp_path / "m.gguf", tied=tied))
    expected = dataclasses.replace(source.config, tie_word_embeddings=tied)
    assert again.config == expected
    assert all(torch.equal(source.state[name], weight) for name, weight in again.state.items())
    assert len(again.state) == len(source.state) - tied
    assert (again.tokenizer.pre, again.tokenizer.ids, again.tokenizer.special) == (
        "smollm", {"bos": 1, "eos": 2}, frozenset({0, 1, 2}))  # fmt: skip


def test_tied_embeddings_stay_tied(source, tmp_path):
    model = open_source(write_gguf(source, tmp_path / "m.gguf", tied=True)).model()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    save(model, tmp_path / "hf", torch.float32)
    assert (
        "lm_head.weight" not in json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())["weight_map"]
    )
    again = load(tmp_path / "hf")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_layers_are_dropped_and_renumbered(source):
    one = source.with_layers([1])
    assert one.config.num_hidden_layers == 1
    assert torch.equal(
        one.state["model.layers.0.mlp.up_proj.weight"], source.state["model.layers.1.mlp.up_proj.weight"]
    )
    assert one.model().config == one.config
    with pytest.raises(SourceError, match=r"layers 0\.\.1"):
        source.with_layers([2])


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_act", "gelu"), ("model_type", "gpt2"), ("rope_scaling", {"type": "yarn"}), ("attention_bias", True),
     ("hidden_size", None), ("head_dim", 7)],
)  # fmt: skip
def test_a_source_of_another_kind_is_refused(tmp_path, key, value):
    path = tiny.write_reglu(tmp_path, hidden_act="silu")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(SourceError, match=key):
        open_source(path)


def test_other_files_are_refused(source, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing of the kind, but long enough to be read")
    with pytest.raises(SourceError, match="not a GGUF file"):
        open_source(tmp_path / "x.gguf")
    with pytest.raises(SourceError, match="no such file"):
        open_source(tmp_path / "none")
    with pytest.raises(SourceError, match="'qwen2'"):
        open_source(write_gguf(source, tmp_path / "q.gguf", tied=False, arch="qwen2"))


def test_a_gguf_without_a_key_is_refused(tmp_path):
    with pytest.raises(SourceError, match="embedding_length is missing"):
        open_source(bpe_model(tmp_path / "tokens-only.gguf"))


# --- surgery ------------------------------------------------------------------


def test_signs_lower_the_error_and_leave_the_teacher_alone(source):
    model = source.model().double()
    tokens = batch()
    with torch.no_grad():
        expected = model(tokens, TEACHER)
        before, _ = swap_errors(model, [tokens])
        flips = canonicalise_signs(model, [tokens])
        after, zeros = swap_errors(model, [tokens])
        assert torch.allclose(model(tokens, TEACHER), expected, atol=1e-12)
    assert all(a < 0.7 * b for a, b in zip(after, before, strict=True))
    assert all(0 < n < 160 for n in flips)
    assert all(0.5 < z < 0.9 for z in zeros)
    assert canonicalise_signs(model, [tokens]) == [0, 0]


def test_an_outlier_token_does_not_dominate():
    wanted = torch.ones(1, 9, 4)
    wanted[0, 0] = 1000.0
    made = wanted * 0.9
    expected = (8 * 0.01 * 4 / 8 + 0.01 * 4e6 / (4e6 + 4)) / 9
    assert float(token_error(made, wanted)) == pytest.approx(expected, rel=1e-4)


# --- stages -------------------------------------------------------------------


def test_the_blend_goes_from_swiglu_to_drelu():
    gate, up = torch.randn(2, 6)
    assert torch.equal(Blend(0.0)(gate, up), swiglu(gate, up))
    assert torch.equal(Blend(1.0)(gate, up), drelu(gate, up))
    assert torch.allclose(Blend(0.25)(gate, up), 0.75 * swiglu(gate, up) + 0.25 * drelu(gate, up))


@pytest.mark.parametrize("drift", [False, True])
def test_an_equal_student_has_no_error(source, drift):
    losses, zeros = distill_ffns(source.model(), source.model(), batch(), Knobs(Blend(0.0), drift, 0.0))
    assert losses.max() < 1e-10
    assert all(0.5 < z < 0.9 for z in zeros)


def test_drift_sees_the_students_inputs(source):
    """Only layer 0 is wrong: on the teacher's inputs that is all; with drift layer 1 is asked to mend it."""
    student = source.model()
    with torch.no_grad():
        student.model.layers[0].mlp.down_proj.weight *= 0.5
    on_teacher, _ = distill_ffns(source.model(), student, batch(), Knobs(Blend(0.0), False, 0.0))
    on_student, _ = distill_ffns(source.model(), student, batch(), Knobs(Blend(0.0), True, 0.0))
    assert on_teacher[1] < 1e-10 < on_student[1]
    assert on_teacher[0] == pytest.approx(float(on_student[0]), rel=1e-5)


def test_end_to_end_compares_with_the_teacher(source):
    meter = Meter(1.0)
    teacher, student = source.model(), source.model([32, 32])
    rows = batch()
    both = compare(ask(teacher, rows, [1, 2]), student, meter)
    logits, states = forward(student, rows[:, :-1], Run(dense=True))
    assert torch.equal(logits, student(rows[:, :-1], Run(dense=True)))
    assert len(states) == 2
    both = Compared(both.kl.detach(), both.hidden.detach())
    p = torch.log_softmax(teacher(rows[:, :-1], TEACHER).detach(), -1).double()
    q = torch.log_softmax(logits.detach(), -1).double()
    assert float(both.kl) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert both.hidden > 0
    assert len(meter.n_active) == 2


def test_a_unit_tap_keeps_the_mask(source):
    model = source.model([32, 32]).double()
    with torch.no_grad():
        assert torch.allclose(model(batch(), Run()), model(batch(), Run(unit_tap=True)), atol=1e-10)
        assert not torch.allclose(model(batch(), Run()), model(batch(), Run(dense=True)), atol=1e-3)


def test_stages_come_in_order(source, shards):
    run = make(source, shards, 20)
    rows = [run.step()[0] for _ in range(20)]
    stages = [row["stage"] for row in rows]
    assert stages == ["teacher"] * 5 + ["drift"] * 2 + ["whole"] * 9 + ["masked"] * 4
    assert [row["blend"] for row in rows[:5]] == pytest.approx([0.0, 0.4, 0.8, 1.0, 1.0])
    assert [row["recall"] > 0 for row in rows] == [False] * 16 + [True] * 4
    assert rows[0]["zero_target"] == pytest.approx(np.mean(run.surgery["zero_rate"]))
    assert rows[-1]["zero_target"] == 0.9


def test_stages_with_no_share_are_left_out(source, shards):
    run = make(source, shards, 6, shares=(0.5, 0.0, 0.5, 0.0))
    assert [run.step()[0]["stage"] for _ in range(6)] == ["teacher"] * 3 + ["whole"] * 3
    assert not [name for name in run.export().state_dict() if "predictor" in name]


def test_predictors_are_exported_once_they_were_applied(source, shards, tmp_path):
    run = make(source, shards, 20)  # warm at steps 17 and 18, masked from 19 on
    for _ in range(18):
        run.step()
    assert not [name for name in run.export().state_dict() if "predictor" in name]
    run.step()
    assert len([name for name in run.export().state_dict() if "predictor" in name]) == 4
    run.save(tmp_path / "state.pt")
    again = make(source, shards, 20)
    again.resume(tmp_path / "state.pt")
    assert again.has_predictors


def test_only_the_stages_parameters_move(source, shards):
    run = make(source, shards, 20)
    moved = {stage: set() for stage in STAGES}
    for _ in range(20):
        before = {name: t.clone() for name, t in run.student.state_dict().items()}
        stage = run.step()[0]["stage"]
        moved[stage] |= {n.split(".")[-2] for n, t in run.student.state_dict().items() if not torch.equal(t, before[n])}
    assert moved["teacher"] == moved["drift"] == {"gate_proj", "up_proj", "down_proj"}
    assert moved["whole"] >= moved["drift"] | {"q_proj", "o_proj", "embed_tokens", "lm_head", "norm", "input_layernorm"}
    assert moved["masked"] == moved["whole"] | {"fc1", "fc2"}


def test_predictors_have_a_rate_of_their_own(source, shards):
    def recall(predictor_lr):
        run = make(source, shards, 60, shares=(0.0, 0.0, 0.2, 0.8), anneal=0.0, warm=1.0, predictor_lr=predictor_lr)
        rows = [run.step()[0] for _ in range(60)]
        assert rows[-1]["lr"] < 2.1e-5  # the model's
        return np.mean([row["recall"] for row in rows[-5:]])

    assert recall(5e-3) > recall(2e-4) + 0.1


def bare_kl(run):
    with torch.no_grad():
        return float(compare(ask(run.teacher, batch(), []), run.student, Meter(1.0)).kl)


def test_it_recovers(source, shards):
    run = make(source, shards, 60, shares=(0.3, 0.1, 0.6, 0.0), zero_target=0.5)
    before = bare_kl(run)
    rows = [run.step()[0] for _ in range(60)]
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.6 * before
    assert bare_kl(run) < 0.6 * before


def test_zero_rates_go_to_their_target(source, shards):
    run = make(source, shards, 120, shares=(0.5, 0.0, 0.5, 0.0), zero_target=0.85)
    rows = [run.step()[0] for _ in range(120)]
    assert rows[0]["zero_rate"] < 0.78
    assert np.mean([row["zero_rate"] for row in rows[-15:]]) == pytest.approx(0.85, abs=0.03)


def test_bf16_runs_every_stage(source, shards):
    run = Distiller(source, shards, RECIPE, Budget(steps=20), dtype=torch.bfloat16)
    wide = make(source, shards, 20)
    for _ in range(20):
        (row, zeros), (expected, _) = run.step(), wide.step()
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.2, abs=0.01)
        assert len(zeros) == 2
    assert {p.dtype for p in run.student.parameters()} == {torch.float32}


# --- state --------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 6, 12, 17])  # inside each stage
def test_resume_continues_identically(source, shards, tmp_path, at):
    straight = make(source, shards, 20)
    rows = [straight.step() for _ in range(20)]
    first = make(source, shards, 20)
    for _ in range(at):
        first.step()
    first.save(tmp_path / "state.pt")
    torch.manual_seed(999)
    second = make(source, shards, 20)
    second.resume(tmp_path / "state.pt")
    resumed = [second.step() for _ in range(20 - at)]
    timeless = [({**row, "seconds": 0}, zeros) for row, zeros in rows[at:]]
    assert [({**row, "seconds": 0}, zeros) for row, zeros in resumed] == timeless
    expected = straight.student.state_dict()
    assert all(torch.equal(expected[name], t) for name, t in second.student.state_dict().items())


def test_another_models_state_is_refused(source, shards, tmp_path):
    make(source, shards).save(tmp_path / "state.pt")
    with pytest.raises(SettingsError, match="--keep-layers"):
        make(source.with_layers([0]), shards).resume(tmp_path / "state.pt")


def test_a_loss_that_is_not_finite_stops_the_run(source, shards, tmp_path):
    run = make(source, shards, 20)
    run.step()
    run.save(tmp_path / "state.pt")
    with torch.no_grad():
        run.teacher.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    before = {name: t.clone() for name, t in run.student.state_dict().items()}
    with pytest.raises(DivergedError, match=r"step 2 \(stage teacher\)") as caught:
        run.step()
    assert all(torch.equal(before[name], t) for name, t in run.student.state_dict().items())
    assert caught.value.data["batch"].shape == (4, 17)
    assert run.n_steps == 1
    make(source, shards, 20).resume(tmp_path / "state.pt")


def test_a_full_disk_leaves_the_last_state(source, shards, tmp_path, monkeypatch):
    run = make(source, shards, 20)
    run.save(tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()

    def full(state, out):
        out.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskFullError, match="--resume"):
        run.save(tmp_path / "state.pt")
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("text", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_out_of_memory_says_what_to_lower(source, shards, monkeypatch, text):
    def fail(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(distiller_module, "distill_ffns", fail)
    with pytest.raises(OutOfMemoryError, match=r"4 x 16 tokens: lower --batch"):
        make(source, shards).step()


def test_other_runtime_errors_pass(source, shards, monkeypatch):
    def fail(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(distiller_module, "distill_ffns", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        make(source, shards).step()


@pytest.mark.parametrize("part", ["canonicalise_signs", "swap_errors"])
def test_out_of_memory_during_surgery_too(source, shards, monkeypatch, part):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(distiller_module, part, fail)
    with pytest.raises(OutOfMemoryError, match="lower --batch"):
        make(source, shards)


def test_out_of_memory_in_the_first_optimiser_step_too(source, shards, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    run = make(source, shards)
    monkeypatch.setattr(run.optimizer, "step", fail)
    with pytest.raises(OutOfMemoryError, match="lower --batch"):
        run.step()


def test_a_broken_state_is_said(source, shards, tmp_path):
    run = make(source, shards)
    run.save(tmp_path / "state.pt")
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingsError, match="no state of a run"):
        run.resume(tmp_path / "state.pt")


def test_too_little_text_is_said(source, shards):
    with pytest.raises(ShardError, match="longer than 20000 tokens"):
        make(source, shards, n_tokens=20000)


# --- the command --------------------------------------------------------------


def arguments(source_dir, shards_dir, out, *more):
    sizes = ("--steps", "24", "--batch", "2", "--seq", "16", "--rank", "32", "--threads", "1", "--log-every", "4")
    return [str(source_dir), "-o", str(out), "--data", str(shards_dir), *sizes, "--out-dtype", "f32", *more]


def test_the_command_writes_a_checkpoint_a_log_a_picture_and_a_report(source_dir, shards_dir, tmp_path, call, capsys):
    out = tmp_path / "out"
    assert call(command, arguments(source_dir, shards_dir, out)) == 0
    assert "surgery, mean over layers" in capsys.readouterr().out
    model = load(out)
    assert [layer.mlp.predictor.fc1.weight.shape[0] for layer in model.model.layers] == [32, 32]
    assert (out / "tokenizer.model").read_bytes() == (source_dir / "tokenizer.model").read_bytes()
    with (out / "train" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12", "16", "20", "24"]
    assert float(rows[0]["zero_0"]) > 0.5
    assert (out / "train" / "curves.svg").read_text().count("<polyline") == 2 + 2 + 2
    report = json.loads((out / "train" / "report.json").read_text())
    assert report["streams"]["words"]["tokens"] == 32 * 16
    assert report["streams"]["words"]["teacher"] > 1
    assert 0.5 < report["zero_rate"] < 1
    assert report["tokens_trained"] == 24 * 32


def test_killed_and_resumed_is_as_never_killed(source_dir, shards_dir, tmp_path):
    """One run killed three times: at its first state, while it writes one, and in the last stage."""

    def start(out, *more):
        args = arguments(source_dir, shards_dir, out, "--save-every", "0", "--heldout-windows", "0", *more)
        return subprocess.Popen([sys.executable, "-m", "turbosparse.train.drelu", *args], stdout=subprocess.PIPE)

    work = tmp_path / "killed" / "train"
    state = work / "state.pt"

    def kill_when(victim, is_time):
        deadline = time.monotonic() + 60
        while not is_time() and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        return torch.load(state, weights_only=True)["n_steps"]  # whole, whenever it was

    assert start(tmp_path / "straight").wait() == 0
    steps = [kill_when(start(tmp_path / "killed"), state.exists)]
    steps += [kill_when(start(tmp_path / "killed", "--resume"), (work / "state.part").exists)]
    victim = start(tmp_path / "killed", "--resume")
    steps += [kill_when(victim, lambda: ",masked," in (work / "log.csv").read_text())]
    assert 0 < steps[0] <= steps[1] < steps[2] < 24
    again = start(tmp_path / "killed", "--resume")
    said = again.communicate()[0]
    assert f"resumed at step {steps[2]}," in said.decode()
    assert b"note:" not in said
    assert again.returncode == 0
    for name in ("model-00001-of-00001.safetensors", "config.json"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    logs = [list(csv.DictReader((tmp_path / out / "train" / "log.csv").open())) for out in ("straight", "killed")]
    assert [row | {"seconds": ""} for row in logs[0]] == [row | {"seconds": ""} for row in logs[1]]


def test_resuming_with_other_settings_is_said(source_dir, shards_dir, tmp_path, call, capsys):
    out = tmp_path / "out"
    assert call(command, arguments(source_dir, shards_dir, out, "--stop-after", "0")) == 0
    assert call(command, arguments(source_dir, shards_dir, out, "--resume", "--anneal", "0.6", "--batch", "3")) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert notes == [
        "note: anneal was 0.3 before, is 0.6 from here on",
        "note: batch was 2 before, is 3 from here on",
    ]


def test_stopped_early_there_are_no_predictors(source_dir, shards_dir, tmp_path, call):
    out = tmp_path / "out"
    assert call(command, arguments(source_dir, shards_dir, out, "--stop-after", "0")) == 0
    assert not [name for name in load(out).state_dict() if "predictor" in name]
    assert not (out / "train" / "report.json").exists()
    assert call(command, arguments(source_dir, shards_dir, out, "--resume")) == 0
    assert (out / "train" / "report.json").exists()


def test_shards_of_another_vocabulary_are_refused(source_dir, tmp_path, call, capsys):
    writer = ShardWriter(tmp_path / "other", "other", 1000, 0)
    writer.add("a", np.arange(500) % 900)
    writer.close()
    assert call(command, arguments(source_dir, tmp_path / "other", tmp_path / "out")) == 4
    assert "n_vocab is 1000, the model has 384" in capsys.readouterr().err


def test_shards_of_another_tokenizer_are_refused(source_dir, source, shards_dir, tmp_path, monkeypatch, call, capsys):
    """The same number of ids, other tokens: nothing else would notice."""
    with_tokens = dataclasses.replace(source, tokenizer=types.SimpleNamespace(sha256="f00"))
    monkeypatch.setattr("turbosparse.train.source.open_source", lambda _: with_tokens)
    assert call(command, arguments(source_dir, shards_dir, tmp_path / "out")) == 4
    assert "tokenizer is words..., the model's vocabulary is f00" in capsys.readouterr().err


def test_a_diverged_run_keeps_its_batch(source_dir, shards_dir, tmp_path, monkeypatch, call, capsys):
    step = Distiller.step

    def poisoned(self):
        if self.n_steps == 2:
            with torch.no_grad():
                self.teacher.model.norm.weight.fill_(float("inf"))
                self.teacher.model.layers[0].mlp.up_proj.weight.fill_(float("inf"))
        return step(self)

    monkeypatch.setattr(Distiller, "step", poisoned)
    out = tmp_path / "out"
    assert call(command, arguments(source_dir, shards_dir, out, "--save-every", "0")) == 8
    assert "step 3 (stage teacher)" in capsys.readouterr().err
    assert np.load(out / "train" / "bad-batch.npy").shape == (2, 17)
    assert torch.load(out / "train" / "state.pt", weights_only=True)["n_steps"] == 2


def test_a_terminated_run_saves_its_state(source_dir, shards_dir, tmp_path, monkeypatch, call):
    step = Distiller.step

    def interrupted(self):
        if self.n_steps == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self)

    monkeypatch.setattr(Distiller, "step", interrupted)
    assert call(command, arguments(source_dir, shards_dir, tmp_path / "out")) == 130
    assert torch.load(tmp_path / "out" / "train" / "state.pt", weights_only=True)["n_steps"] == 6


def test_the_second_signal_ends_it_at_once():
    stopper = command.Stopper()
    stopper(signal.SIGINT, None)
    assert stopper.seen
    with pytest.raises(KeyboardInterrupt):
        stopper(signal.SIGINT, None)


def test_layers_are_written_as_ranges():
    assert command.layer_list("0-2,7,9-9") == [0, 1, 2, 7, 9]


def test_an_empty_log_gives_an_empty_picture(tmp_path):
    (tmp_path / "log.csv").write_text("step,tokens,stage,loss,hidden,zero_rate,zero_target\n")
    draw_curves(tmp_path / "log.csv", tmp_path / "c.svg")
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
