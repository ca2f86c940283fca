"""What inspect says is what the file holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from turbosparse.convert import convert
from turbosparse.convert.inspect import as_text, inspect_file
from turbosparse.convert.neurons import save_stats


def test_facts_of_a_dense_file(mistral_dir: Path, tmp_path: Path) -> None:
    path = convert(mistral_dir, tmp_path / "m.gguf", outtype="q8_0")
    facts = inspect_file(path)
    json.dumps(facts)
    assert facts["bytes"] == path.stat().st_size
    assert facts["architecture"]["activation"] == "drelu"
    assert facts["architecture"]["default_mode"] == "predicted"
    assert facts["predictors"]["ranks"] == [32, 48]
    assert facts["predictors"]["input"].startswith("before RMSNorm")
    assert facts["sparsity"] == {"profiled": False, "hint": facts["sparsity"]["hint"]}
    assert facts["placement"]["neuron_order"] == "original"
    assert facts["tokenizer"]["eos"] == 360
    assert sum(facts["types"].values()) == sum(t.n_bytes for t in GGUFReader(path).tensors)
    estimate = facts["memory"]["bytes_per_token_estimated"]
    assert estimate["exact"] is None
    assert estimate["predicted"] is None
    total = sum(facts["types"].values())
    embd = next(t for t in GGUFReader(path).tensors if t.name == "token_embd.weight")
    predictors = sum(layer["bytes_predictor"] for layer in facts["layers"])
    assert estimate["dense"] == total - predictors - embd.n_bytes * 383 // 384


def test_sparsity_and_bytes_per_token(mistral_dir: Path, tmp_path: Path) -> None:
    counts = np.zeros((1, 160), np.int64)
    counts[0, :16] = 100  # 10 % of the neurons always, the rest never
    save_stats(tmp_path / "s", [(counts, np.array([100]))] * 2, corpus="book", sha256="", tokens=100)
    path = convert(mistral_dir, tmp_path / "m.gguf", outtype="f32", stats=tmp_path / "s")
    facts = inspect_file(path)
    assert facts["sparsity"]["mean_zero"] == pytest.approx(0.9)
    assert facts["sparsity"]["neurons_for_80_percent"] == pytest.approx(0.08, abs=0.01)
    assert facts["layers"][1]["active"] == pytest.approx(0.1)
    estimate = facts["memory"]["bytes_per_token_estimated"]
    matrix = 64 * 160 * 4
    assert estimate["dense"] - estimate["exact"] == pytest.approx(2 * (0.9 + 0.9) * matrix, abs=2)
    predictor = sum(layer["bytes_predictor"] for layer in facts["layers"])
    assert estimate["dense"] - estimate["predicted"] == pytest.approx(2 * 3 * 0.9 * matrix - predictor, abs=2)
    assert "90.0% of neurons are zero" in as_text(facts)
    assert "book" in as_text(facts)


def test_moe_counts_the_experts_that_run(mixtral_dir: Path, tmp_path: Path, stats_file: Callable[..., Path]) -> None:
    facts = inspect_file(convert(mixtral_dir, tmp_path / "m.gguf", outtype="f32", stats=stats_file(2, 4, 160)))
    ffn = sum(layer["bytes_ffn"] for layer in facts["layers"])
    assert ffn == 2 * 3 * 4 * 64 * 160 * 4
    assert facts["memory"]["bytes_per_token_estimated"]["dense"] < facts["bytes"] - ffn / 2
    assert "4 experts of which 2 run" in as_text(facts)
    assert facts["predictors"]["input"] == "normalised FFN input"


def test_text_warns_of_stock_llama_cpp(mistral_dir: Path, tmp_path: Path) -> None:
    text = as_text(inspect_file(convert(mistral_dir, tmp_path / "m.gguf", no_predictors=True)))
    assert "unknown model architecture 'turbosparse'" in text
    assert "none: exact mode only" in text
