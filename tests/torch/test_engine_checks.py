"""The two checks of logits, torch's against an engine's: equal models pass, a changed weight does not."""

from __future__ import annotations

import pytest
import torch
from turbosparse.convert import convert
from turbosparse.torch import load, save
from turbosparse.train import student_check, teacher_check
from turbosparse.train.source import open_source

from tests import tiny
from tests.torch.common import write_gguf

pytestmark = pytest.mark.torch


def test_the_engine_has_the_students_logits(tmp_path, call, capsys):
    checkpoint = tiny.write_mistral(tmp_path / "hf")
    assert call(student_check, [checkpoint, "--text", "some words of a text"]) == 0
    said = capsys.readouterr().out
    assert "exact: logits differ by" in said
    assert "predicted: logits differ by" in said
    gguf = convert(checkpoint, tmp_path / "f32.gguf", outtype="f32")
    model = load(checkpoint)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:8] *= 1.5
    save(model, checkpoint, torch.float32)
    assert max(student_check.logit_errors(checkpoint, gguf, "some words of a text").values()) > 1e-3


def test_llama_cpp_has_the_teachers_logits(source, tmp_path, monkeypatch):
    source = write_gguf(source, tmp_path / "tiny.gguf", tied=False)
    tokens = [5, 20, 33, 47, 12]
    assert teacher_check.compare(source, tokens) < 1e-4

    def changed(path):
        made = open_source(path)
        made.state["model.layers.0.mlp.up_proj.weight"][:8] *= 1.5
        return made

    monkeypatch.setattr("turbosparse.train.source.open_source", changed)
    assert teacher_check.compare(source, tokens) > 1e-3
