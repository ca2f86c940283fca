"""Predictors trained alone: they learn, and nothing else changes."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from turbosparse.torch import load, save
from turbosparse.torch.layers import Run
from turbosparse.train import predictors as command
from turbosparse.train.drelu_report import windows
from turbosparse.train.evaluate import Counter
from turbosparse.train.faults import DivergedError, OutOfMemoryError, SettingsError
from turbosparse.train.predictors import Plan, PredictorTraining, miss, observe
from turbosparse.train.shards import Shards, ShardWriter

from tests import tiny

pytestmark = pytest.mark.torch
PLAN = Plan(steps=30, rank=32, batch=8, n_tokens=24, inner=64, lr=1e-2, pos_weight=4.0)


@pytest.fixture(scope="module")
def shards_dir(tmp_path_factory):
    rng = np.random.default_rng(0)
    writer = ShardWriter(tmp_path_factory.mktemp("shards"), "words", 384, 0)
    writer.add("words", rng.integers(3, 60, 4000), rng.integers(3, 60, 600))
    writer.close()
    return writer.path


@pytest.fixture
def checkpoint(tmp_path):
    return tiny.write_mistral(tmp_path / "hf")


@pytest.fixture
def training(checkpoint, shards_dir):
    return PredictorTraining(load(checkpoint), Shards(shards_dir), PLAN)


def rates(model, shards_dir):
    counter = Counter(model.config.num_hidden_layers)
    with torch.no_grad():
        model(windows(Shards(shards_dir).heldout("words"), 24, 16)[:, :-1], Run(observer=counter))
    found = [layer.rates() for layer in counter.layers]
    return {key: np.mean([layer[key] for layer in found]) for key in found[0]}


def test_they_learn_what_is_non_zero(training, shards_dir):
    before = rates(training.model, shards_dir)
    rows = [training.step() for _ in range(PLAN.steps)]
    after = rates(training.model, shards_dir)
    assert abs(before["recall"] - before["kept"]) < 0.1  # fresh ones know nothing
    assert after["recall"] > after["kept"] + 0.2
    assert after["weighted"] > after["recall"]  # what adds most is missed least
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert [row["masked"] for row in rows] == [0] * 18 + [1] * 12


def test_only_predictors_change(checkpoint, training):
    before = load(checkpoint).state_dict()
    for _ in range(3):
        training.step()
    after = training.model.state_dict()
    changed = {name for name, t in before.items() if t.shape != after[name].shape or not torch.equal(t, after[name])}
    assert changed == {name for name in after if ".predictor." in name}
    assert {after[name].shape[0] for name in changed if "fc1" in name} == {32}


def test_what_is_observed_is_what_the_model_does(training):
    class Seen:
        wants_logits = True

        def __init__(self):
            self.acts, self.logits = [], []

        def ffn(self, place, act, logits):
            self.acts.append(act.flatten(0, 1))
            self.logits.append(logits.flatten(0, 1))

        def router(self, layer, probs, chosen):
            raise AssertionError

    tokens = torch.from_numpy(np.random.default_rng(2).integers(3, 60, (2, 12)))
    for masked in (False, True):
        expected = Seen()
        with torch.no_grad():
            training.model(tokens, Run(dense=not masked, observer=expected, unit_tap=True))
            found = list(observe(training.model, tokens, masked))
        for i, layer in enumerate(found):
            assert torch.allclose(layer.act, expected.acts[i], atol=1e-5)
            assert torch.allclose(training.mlps[i].predictor(layer.tap), expected.logits[i], atol=1e-4)


def test_a_neuron_that_adds_more_is_missed_at_a_higher_price():
    logits = torch.zeros(1, 4, requires_grad=True)
    miss(logits, torch.tensor([[0.0, 1.0, 3.0, 1.0]]), torch.tensor([1.0, 1.0, 1.0, 2.0]), 6.0).backward()
    pull = -8 * logits.grad[0]  # a logit of 0 pulls with half its weight, over four neurons
    # adds 0, 1, 3, 2, mean 2 of the active: weights 1 for the zero, then 6 * (0.5 + 0.5 * value / 2)
    assert pull.tolist() == pytest.approx([-1.0, 4.5, 7.5, 6.0])


def test_resume_continues_identically(checkpoint, shards_dir, tmp_path):
    def fresh():
        return PredictorTraining(load(checkpoint), Shards(shards_dir), PLAN)

    straight, first, second = fresh(), fresh(), fresh()
    for _ in range(6):
        straight.step()
    for _ in range(4):
        first.step()
    first.save(tmp_path / "state.pt")
    torch.manual_seed(99)
    second.resume(tmp_path / "state.pt")
    for _ in range(2):
        second.step()
    expected = straight.model.state_dict()
    assert all(torch.equal(expected[name], t) for name, t in second.model.state_dict().items())


def test_a_state_of_another_rank_is_refused(training, checkpoint, shards_dir, tmp_path):
    training.save(tmp_path / "state.pt")
    other = PredictorTraining(load(checkpoint), Shards(shards_dir), replace(PLAN, rank=PLAN.rank + 8))
    with pytest.raises(
        SettingsError, match=rf"2 predictors of rank \[{PLAN.rank}\]: give the same checkpoint and --rank"
    ):
        other.resume(tmp_path / "state.pt")


def test_bf16_learns_much_the_same(checkpoint, shards_dir):
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        run = PredictorTraining(load(checkpoint), Shards(shards_dir), PLAN, dtype)
        losses[dtype] = [run.step()["loss"] for _ in range(3)]
    assert losses[torch.bfloat16] != losses[torch.float32]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_a_loss_that_is_not_finite_stops_it(training):
    training.step()
    before = {name: t.clone() for name, t in training.model.state_dict().items() if ".predictor." in name}
    training.sizes[1].fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"step 2: .* seed 1, step 1"):
        training.step()
    after = training.model.state_dict()
    assert all(torch.equal(t, after[name]) for name, t in before.items())


def test_out_of_memory_says_what_to_lower(training, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(command, "observe", fail)
    with pytest.raises(OutOfMemoryError, match="8 x 24 tokens: lower --batch"):
        training.step()


def test_experts_are_refused(tmp_path, shards_dir):
    with pytest.raises(SettingsError, match="Mistral family only"):
        PredictorTraining(load(tiny.write_mixtral(tmp_path / "moe")), Shards(shards_dir), PLAN)


def test_the_command_writes_a_checkpoint_and_a_log(checkpoint, shards_dir, tmp_path, call, capsys):
    plain = load(checkpoint)  # as a source without predictors
    for layer in plain.model.layers:
        layer.mlp.predictor = None
    save(plain, tmp_path / "plain", torch.float32)
    out = tmp_path / "out"
    args = [tmp_path / "plain", "-o", out, "--data", shards_dir, "--batch", "2", "--rank", "32", "--out-dtype", "f32"]
    assert call(command, [*args, "--steps", "2"]) == 0
    assert call(command, [*args, "--steps", "4", "--resume"]) == 0
    assert "resumed at step 2\nnote: steps was 2 before, is 4 from here on\n" in capsys.readouterr().out
    assert [row["step"] for row in csv.DictReader((out / "train" / "log.csv").open())] == ["1", "2", "3", "4"]
    made, tokens = load(out), torch.arange(3, 40)[None]
    assert made.model.layers[1].mlp.predictor.fc1.weight.shape[0] == 32
    with torch.no_grad():
        assert torch.equal(made(tokens, Run(dense=True)), plain(tokens, Run(dense=True)))
