"""Diagnosis: recall of the selection and shares of the branches, from columns that are also computed in full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from turbosparse import ArgumentError, Model
from turbosparse.perplexity import perplexity
from turbosparse.stats import LayerDiagnosis

from tests.conftest import Case

FAMILIES = ["mistral", "mistral_hot", "mixtral"]


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def diagnosed(model: Model, case: Case, mode: str, every: int = 1) -> tuple[list[LayerDiagnosis], list[Any]]:
    model.reset()
    model.set_diagnosis(every)
    model.logits(case.tokens(20), mode=mode)  # type: ignore[arg-type]
    found = model.read_diagnosis()
    model.set_diagnosis(0)
    return found, model.layer_stats()


def test_full_columns_agree_with_what_the_modes_compute(case: Case) -> None:
    """Exact mode computes the second branch where the first is > 0; a predicted neuron that is not zero is a hit."""
    with case.open(n_ctx=64) as model:
        first = [layer.first_branch for layer in model.layers]
        dense = diagnosed(model, case, "dense")
        exact = diagnosed(model, case, "exact")
        predicted = diagnosed(model, case, "predicted")
    for il in range(case.oracle.n_layer):
        for found, stats in (dense, exact, predicted):
            assert (
                found[il].n_neuron
                == stats[il].n_neuron
                == found[il].n_selected + stats[il].n_neuron - stats[il].n_selected
            )
            assert found[il].n_hit == stats[il].n_active
        for found, _ in (dense, exact):
            assert found[il].n_active == found[il].n_hit
            assert found[il].recall == found[il].weighted_recall == 1
        if first[il] == "gate":
            assert exact[0][il].n_gate == exact[1][il].rows_up
        else:
            assert exact[0][il].n_up == exact[1][il].rows_gate
        found, stats = predicted[0][il], predicted[1][il]
        assert 0 < found.n_hit < found.n_active < min(found.n_gate, found.n_up)
        assert 0 < found.weight_hit < found.weight_active


def test_results_and_counters_stay_what_they_are(mistral: Case) -> None:
    tokens = mistral.tokens(12)
    with mistral.open(n_ctx=64, mode="predicted") as model:
        plain, before = model.logits(tokens), model.layer_stats()
        model.reset()
        model.set_diagnosis(2)
        np.testing.assert_array_equal(model.logits(tokens), plain)
        assert model.layer_stats() == before


def test_every_nth_column_of_each_layer(mistral: Case) -> None:
    with mistral.open(n_ctx=64, mode="predicted") as model:
        whole, _ = diagnosed(model, mistral, "predicted")
        some, _ = diagnosed(model, mistral, "predicted", every=3)
        assert [layer.n_column for layer in whole] == [20, 20]
        assert [layer.n_column for layer in some] == [7, 7]
        assert all(part.n_active < layer.n_active for part, layer in zip(some, whole, strict=True))
        total = LayerDiagnosis.total(whole)
        assert total.n_hit == sum(layer.n_hit for layer in whole)
        with pytest.raises(ArgumentError, match="every"):
            model.set_diagnosis(-1)


def test_perplexity_reports_recall(mistral: Case) -> None:
    tokens = mistral.tokens(64)
    with mistral.open(n_ctx=32, mode="predicted") as model:
        found = perplexity(model, tokens, n_ctx=32, recall=True).as_dict()
        assert 0 < found["recall"]["recall"] < 1
        assert len(found["recall"]["layers"]) == 2
        assert found["recall"]["columns"] == 2 * 64 // 8
        assert "recall" not in perplexity(model, tokens, n_ctx=32).as_dict()


def swapped(src: Path, out: Path, il: int) -> Path:
    """The checkpoint with gate and up of one layer exchanged: dReLU gives the same output."""
    shutil.copytree(src, out)
    for shard in out.glob("*.safetensors"):
        with safe_open(shard, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        gate, up = (f"model.layers.{il}.mlp.{k}_proj.weight" for k in ("gate", "up"))
        assert (gate in tensors) == (up in tensors)  # in one shard
        if gate in tensors:
            tensors[gate], tensors[up] = tensors[up], tensors[gate]
            save_file(tensors, shard, {"format": "pt"})
    return out


def test_the_branch_that_is_zero_more_often_goes_first(mistral: Case, tmp_path: Path) -> None:
    """From profile to file: exchanging gate and up of a layer flips its first_branch and nothing else."""
    from turbosparse.convert import convert
    from turbosparse.profile import profile_file

    text = tmp_path / "t.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 8, encoding="utf-8")
    first = {}
    rows = {}
    for name, src in (("as it is", mistral.hf), ("swapped", swapped(Path(mistral.hf), tmp_path / "hf", 1))):
        plain = convert(src, tmp_path / f"{name}.gguf", outtype="f32")
        profile = profile_file(plain, text, tmp_path / "s.safetensors", mode="exact")
        out = convert(src, tmp_path / f"{name}.hot.gguf", outtype="f32", stats=tmp_path / "s.safetensors")
        with Model(out, n_ctx=64, mode="exact") as model:
            first[name] = [layer.first_branch for layer in model.layers]
            model.logits(mistral.tokens(20))
            rows[name] = [layer.rows for layer in model.layer_stats()]
        assert first[name] == ["up" if up < gate else "gate" for gate, up in profile.branches]
    assert first["as it is"][0] == first["swapped"][0]
    assert {first["as it is"][1], first["swapped"][1]} == {"gate", "up"}
    assert rows["as it is"] == rows["swapped"]


def test_cli_prints_recall(mistral: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from turbosparse.cli import perplexity as command

    text = tmp_path / "t.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    options: dict[str, Any] = {"mode": "predicted", "n_ctx": 32, "windows": 2, "threads": 1, "recall": True}
    command.command(Path(mistral.gguf), text, **options, as_json=True)
    assert 0 < json.loads(capsys.readouterr().out)["recall"]["weighted_recall"] <= 1
    command.command(Path(mistral.gguf), text, **options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["layer", "gate", "up"]
    assert lines[-1].split()[0] == "all"
