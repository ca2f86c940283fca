"""The training loop on a run of seconds: phases, resume, losses, log."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch
from turbosparse.torch import Place, load
from turbosparse.train.losses import Controller, Meter
from turbosparse.train.micro import SHARD_BYTES, export, train
from turbosparse.train.recipe import MISTRAL, MOE, RECIPES, Recipe
from turbosparse.train.stream import batch_at, dialogue_text, join, load_streams, save_streams
from turbosparse.train.tokenizer import BOS, Tokenizer, train_pieces
from turbosparse.train.trainer import Budget, CsvLog, Trainer

pytestmark = pytest.mark.torch
SMALL = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


def recipe(family):
    config = dataclasses.replace({"mistral": MISTRAL, "moe": MOE}[family], **SMALL)
    return Recipe(config, [32, 64], batch=2, n_tokens=16, warmup_steps=3, predictor_from=0.4, masked_from=0.7)


@pytest.fixture
def streams():
    """Arithmetic progressions: something that can be learned."""
    groups = ("austen", "moby", "sotu", "chat")
    return {g: ((np.arange(3000) * (7 + 2 * i)) % 30 + 3).astype(np.uint16) for i, g in enumerate(groups)}


@pytest.mark.parametrize("family", ["mistral", "moe"])
def test_resume_continues_identically(tmp_path, streams, family):
    budget = Budget(steps=12)
    straight = Trainer(recipe(family), streams, budget)
    rows = [straight.step() for _ in range(12)]
    first = Trainer(recipe(family), streams, budget)
    for _ in range(6):  # the middle of the warm phase
        first.step()
    first.save(tmp_path / "state.pt")
    torch.manual_seed(12345)
    second = Trainer(recipe(family), streams, budget)
    second.resume(tmp_path / "state.pt")
    resumed = [second.step() for _ in range(6)]
    assert without_time(resumed) == without_time(rows[6:])
    expected = straight.model.state_dict()
    assert all(torch.equal(expected[n], t) for n, t in second.model.state_dict().items())


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_phases_follow_each_other(streams):
    trainer = Trainer(recipe("mistral"), streams, Budget(steps=20))
    rows = [trainer.step() for _ in range(20)]
    assert [r["phase"] for r in rows] == ["sparse"] * 8 + ["warm"] * 6 + ["masked"] * 6
    assert all(r["recall"] == 0 for r in rows[:8])
    assert all(r["recall"] > 0 for r in rows[8:])
    assert rows[0]["zero_target"] < rows[-1]["zero_target"] == recipe("mistral").zero_target
    assert rows[0]["lr"] < rows[3]["lr"] > rows[-1]["lr"]


def test_predictors_rest_until_their_phase(streams):
    trainer = Trainer(recipe("mistral"), streams, Budget(steps=20))
    name = "model.layers.0.mlp.predictor.fc1.weight"
    start = trainer.model.state_dict()[name].clone()
    for _ in range(8):
        trainer.step()
    assert torch.equal(trainer.model.state_dict()[name], start)
    trainer.step()
    assert not torch.equal(trainer.model.state_dict()[name], start)


@pytest.mark.parametrize("family", ["mistral", "moe"])
def test_it_learns(streams, family):
    trainer = Trainer(recipe(family), streams, Budget(steps=120))
    losses = [trainer.step()["loss"] for _ in range(120)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_train_logs_saves_and_exports(tmp_path, streams):
    trainer = Trainer(recipe("mistral"), streams, Budget(steps=10))
    train(trainer, tmp_path, log_every=5, save_every=0.0)
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5", "10"]
    export(trainer, Tokenizer(train_pieces(TEXT, 300)), tmp_path / "out")
    again = load(tmp_path / "out")
    stored = trainer.model.state_dict()
    assert all(torch.equal(stored[n].bfloat16().float(), t) for n, t in again.state_dict().items())


TEXT = ["the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore"] * 20


def test_a_resumed_log_drops_rows_after_the_state(tmp_path):
    log = CsvLog(tmp_path / "log.csv", 0)
    for step in (5, 10, 15):
        log.write({"step": step, "loss": 1.0})
    log.close()
    CsvLog(tmp_path / "log.csv", 10).close()
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["5", "10"]


def test_a_time_budget_measures_training_time():
    budget = Budget(seconds=200.0)
    assert [budget.progress(10**6, s) for s in (0.0, 50.0, 500.0)] == [0.0, 0.25, 1.0]


def test_batches_depend_on_seed_and_step_only(streams):
    mix = {"austen": 0.5, "chat": 0.5}
    first = batch_at(streams, mix, (4, 16), 1, 7)
    assert first.shape == (4, 17)
    assert np.array_equal(first, batch_at(streams, mix, (4, 16), 1, 7))
    assert not np.array_equal(first, batch_at(streams, mix, (4, 16), 1, 8))
    assert not np.array_equal(first, batch_at(streams, mix, (4, 16), 2, 7))


def test_batches_draw_from_the_mix(streams):
    rows = batch_at(streams, {"austen": 1.0, "chat": 0.0}, (64, 16), 1, 0)
    difference = np.diff(rows, axis=1) % 30
    assert (difference == 7).all()  # austen's step


def test_streams_round_trip(tmp_path, streams):
    save_streams(streams, tmp_path / "tokens.npz")
    again = load_streams(tmp_path / "tokens.npz")
    assert again.keys() == streams.keys()
    assert all(np.array_equal(again[g], streams[g]) for g in streams)


def test_documents_and_dialogues_begin_with_bos():
    tokenizer = Tokenizer(train_pieces(TEXT, 300))
    stream = join(["the fox", dialogue_text(["hi", "yes"])], tokenizer).tolist()
    assert stream[0] == BOS
    assert stream.count(BOS) == 2
    assert stream.count(tokenizer.im_start) == stream.count(tokenizer.im_end) == 2
    assert tokenizer.decode(stream[stream.index(tokenizer.im_start) :]).startswith("<|im_start|>user")


def test_the_controller_pushes_towards_its_target():
    controller = Controller(0.3)
    start = controller.weight
    controller.update(0.7, 0.9)
    assert controller.weight > start
    for _ in range(2000):
        controller.update(1.0, 0.9)
    assert controller.weight == pytest.approx(1e-4)


def test_the_meter_counts():
    meter = Meter(pos_weight=1.0)
    act = torch.tensor([[0.0, 2.0, 0.0, 4.0]])
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    meter.ffn(Place(0, 0), act, logits)
    terms = meter.terms()
    assert (terms.n, terms.zero_rate, terms.recall, terms.precision) == (4, 0.5, 0.5, 0.5)
    assert float(terms.shrink) == pytest.approx((2 / 5 + 4 / 7) / 4)  # mean active value 3
    assert float(terms.miss) == pytest.approx(np.mean([np.log1p(np.e), np.log1p(np.exp(-1))]), rel=1e-6)
    assert float(terms.balance) == 0.0


def test_the_sparsity_term_pulls_activations_down():
    act = torch.tensor([[0.5, 2.0]], requires_grad=True)
    meter = Meter(1.0)
    meter.ffn(Place(0, 0), act, None)
    meter.terms().shrink.backward()
    assert act.grad[0, 0] > act.grad[0, 1] > 0


@pytest.mark.parametrize(("chosen", "balance"), [([[0], [1], [2], [3]], 1.0), ([[0], [0], [0], [0]], 4.0)])
def test_the_balance_term_is_one_when_even(chosen, balance):
    picks = torch.tensor(chosen)
    probs = torch.nn.functional.one_hot(picks[:, 0], 4).float()
    meter = Meter(1.0)
    meter.ffn(Place(0, 0), torch.ones(1, 1), None)
    meter.router(0, probs, picks)
    assert float(meter.terms().balance) == pytest.approx(balance)


def test_recipes_have_different_ranks_in_multiples_of_32():
    for r in RECIPES.values():
        assert len(r.ranks) == r.config.num_hidden_layers
        assert len(set(r.ranks)) > 1
        assert all(rank % 32 == 0 for rank in r.ranks)
        assert r.config.vocab_size % 64 == 0
    assert SHARD_BYTES < 5_000_000
