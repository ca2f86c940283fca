"""The two checkpoints in models/: layout, size, and that they are really trained, sparse and predicted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from turbosparse.torch import load
from turbosparse.train.evaluate import layer_table, measure, perplexity_table, predictor_ranks, windows
from turbosparse.train.tokenizer import IM_END, Tokenizer

from tests import oracle
from tests.torch.common import logits

pytestmark = pytest.mark.torch
MODELS = Path(__file__).parents[2] / "models"
NAMES = ("turbosparse-micro", "turbosparse-micro-moe")
TEXT = MODELS / "text" / "heldout.txt"


@pytest.fixture(scope="module", params=NAMES)
def directory(request):
    return MODELS / request.param


def rows_of(directory, n_rows):
    tokenizer = Tokenizer.load(directory)
    return windows(tokenizer.encode(TEXT.read_text()[:80_000]))[:n_rows]


def test_size_shards_and_files(directory):
    assert sum(p.stat().st_size for p in directory.rglob("*") if p.is_file()) <= 5_000_000
    assert len(list(directory.glob("model-*.safetensors"))) >= 2
    assert {p.name for p in directory.iterdir()} >= {
        "config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json",
        "special_tokens_map.json", "model.safetensors.index.json", "tokenizer.json",
    }  # fmt: skip


def test_config_and_tokenizer_disagree_about_eos_as_published(directory):
    config, tokens = (json.loads((directory / f).read_text()) for f in ("config.json", "tokenizer_config.json"))
    tokenizer = Tokenizer.load(directory)
    assert config["eos_token_id"] == 2
    assert tokens["eos_token"] == IM_END
    assert config["vocab_size"] == tokenizer.n_rows > tokenizer.im_start + 1
    assert config["torch_dtype"] == "bfloat16"
    expected = {"bamboo": (4096, 10000.0), "turbosparsemixtral": (None, 1e6)}[config["model_type"]]
    assert (config["sliding_window"], config["rope_theta"]) == expected


def test_ranks_differ_between_layers(directory):
    ranks = predictor_ranks(load(directory))
    assert len(set(ranks)) > 1
    assert all(rank and rank % 32 == 0 for rank in ranks)


@pytest.mark.parametrize("mode", ["dense", "predicted"])
def test_logits_equal_the_oracle(directory, mode):
    row = rows_of(directory, 1)[0, :64].tolist()
    expected = oracle.Oracle.from_hf(directory).logits(row, mode)
    found = logits(load(directory, torch.float64), row, dense=mode == "dense")
    assert np.abs(found - expected).max() <= 1e-9 * np.ptp(expected)


def test_held_out_perplexity_and_sparsity(directory):
    model, rows = load(directory), rows_of(directory, 24)
    losses, counts = {}, {}
    for dense in (True, False):
        losses[dense], counts[dense] = measure(model, rows, dense)
    assert math.exp(losses[True]) < 45
    assert losses[False] - losses[True] < 0.1  # the model lives well with its mask
    rates = [layer.rates() for layer in counts[False].layers]
    assert np.mean([r["zero"] for r in rates]) >= 0.8
    assert np.mean([r["recall"] for r in rates]) >= 0.65
    assert all(r["recall"] > 1.5 * r["kept"] for r in rates)  # far better than chance


def test_the_tables_print(directory):
    model, rows = load(directory), rows_of(directory, 2)
    table, counter = perplexity_table(model, rows, 1000)
    assert table.count("\n") == 3
    assert layer_table(counter, predictor_ranks(model)).count("\n") == model.config.num_hidden_layers + 2


def test_text_files_are_small_and_apart():
    sample, held_out = ((MODELS / "text" / f).read_text("ascii") for f in ("sample.txt", "heldout.txt"))
    assert max(len(sample), len(held_out)) <= 300_000
    long_lines = {line for line in sample.split("\n") if len(line) > 80}
    assert not long_lines & set(held_out.split("\n"))
    assert "@" not in sample + held_out
