"""Predictors that lie in a directory of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from turbosparse.convert import convert
from turbosparse.convert.errors import CheckpointError, MissingPackageError, UnsupportedModelError, UsageError
from turbosparse.convert.job import Options, open_job

from tests import tiny


@pytest.fixture
def bamboo(tmp_path: Path) -> tuple[Path, Path]:
    """(Bamboo-base without predictors, its predictor directory)"""
    return (
        tiny.write_mistral(tmp_path / "bamboo", with_predictor=False),
        tiny.write_predictor_dir(tmp_path / "predictors"),
    )


def test_same_tensors_as_embedded(bamboo: tuple[Path, Path], tmp_path: Path, edited: Any, weights: Any) -> None:
    _, predictors = bamboo
    full = tiny.write_mistral(tmp_path / "hf", n_shards=1)
    base = edited(full, change={name: None for name in weights(full) if ".predictor." in name})
    separate = convert(base, tmp_path / "a.gguf", outtype="f32", predictors=predictors)
    embedded = convert(full, tmp_path / "b.gguf", outtype="f32")
    a = {t.name: np.asarray(t.data) for t in GGUFReader(separate).tensors}
    b = {t.name: np.asarray(t.data) for t in GGUFReader(embedded).tensors}
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_default_mode_and_source(bamboo: tuple[Path, Path], tmp_path: Path, mistral_dir: Path) -> None:
    base, predictors = bamboo

    def facts(path: Path) -> tuple[Any, ...]:
        fields = GGUFReader(path).fields
        names = ("default_mode", "predictor.kind", "predictor.source")
        return tuple(f.contents() if (f := fields.get(f"turbosparse.{n}")) else None for n in names)

    added = facts(convert(base, tmp_path / "a.gguf", predictors=predictors))
    assert added == ("exact", "mlp", "directory predictors")  # the model was not trained with the mask
    assert facts(convert(base, tmp_path / "b.gguf")) == ("exact", "none", None)
    trained = facts(convert(mistral_dir, tmp_path / "c.gguf"))
    assert trained == ("predicted", "mlp", "checkpoint, embedded")
    assert facts(convert(mistral_dir, tmp_path / "d.gguf", no_predictors=True)) == ("exact", "none", None)


def test_one_file_with_the_embedded_names(bamboo: tuple[Path, Path], tmp_path: Path, weights: Any) -> None:
    base, _ = bamboo
    full = weights(tiny.write_mistral(tmp_path / "hf"))
    one = tmp_path / "one"
    one.mkdir()
    tiny.write_safetensors(one / "predictors.safetensors", {k: v for k, v in full.items() if ".predictor." in k})
    with open_job(base, Options(predictors=one)) as job:
        assert job.plan.ranks == [32, 48]


def test_threshold_before_rmsnorm_must_be_0(bamboo: tuple[Path, Path]) -> None:
    base, predictors = bamboo
    (predictors / "config.json").write_text(json.dumps({"sparse_threshold": 0.0}))
    with open_job(base, Options(predictors=predictors)) as job:
        assert job.plan.ranks == [32, 48]
    (predictors / "config.json").write_text(json.dumps({"sparse_threshold": 0.25}))
    with pytest.raises(UnsupportedModelError, match=r"0\.25.*Recalibrate"):
        open_job(base, Options(predictors=predictors))


def test_pt_needs_allow_pickle_and_torch(bamboo: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, predictors = bamboo
    (predictors / "model_0.safetensors").rename(predictors / "model_0.pt")
    with pytest.raises(UsageError, match="--allow-pickle"):
        open_job(base, Options(predictors=predictors))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="pip install torch"):
        open_job(base, Options(predictors=predictors, allow_pickle=True))


def test_wrong_directories(bamboo: tuple[Path, Path], tmp_path: Path, mistral_dir: Path) -> None:
    base, predictors = bamboo
    with pytest.raises(UsageError, match="not a directory"):
        open_job(base, Options(predictors=tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no predictor files"):
        open_job(base, Options(predictors=tmp_path / "empty"))
    with pytest.raises(CheckpointError, match="both in the checkpoint and"):
        open_job(mistral_dir, Options(predictors=predictors))
    with pytest.raises(UsageError, match="contradict"):
        open_job(base, Options(predictors=predictors, no_predictors=True))
    tiny.write_safetensors(predictors / "model_7.safetensors", {"fc1.weight": np.zeros((32, 64), np.float32)})
    with pytest.raises(CheckpointError, match=r"model_7.*fc1\.weight and fc2\.weight"):
        open_job(base, Options(predictors=predictors))


def test_predictor_of_a_layer_that_is_not_there(bamboo: tuple[Path, Path]) -> None:
    base, predictors = bamboo
    (predictors / "model_1.safetensors").rename(predictors / "model_5.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.5\.mlp\.predictor"):
        open_job(base, Options(predictors=predictors))
