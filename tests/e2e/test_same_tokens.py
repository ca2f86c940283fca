"""Work on speed changes no text: greedy tokens of the bundled checkpoints, F32, as commit 3d290d1 wrote them.

tokens.json has 64 tokens per model, mode and prompt, made by that commit's own build. Greedy choices of
a trained model have margins far above the rounding of another order of summation, so that a new
kernel may differ in the last bits and must not differ here. (Without flash attention: ggml's rounds to half precision,
which moves a close choice of the mixture.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import turbosparse
from turbosparse.convert import convert

from tests.e2e.test_cli import MODELS, ROOT

RECORDED: dict[str, list[int]] = json.loads(Path(__file__).with_name("tokens.json").read_text(encoding="utf-8"))
PROMPTS = ("She was", "It is the duty of", "Once upon a time")


@pytest.fixture(scope="module", params=MODELS)
def f32(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp("tokens") / "m.gguf"
    convert(ROOT / "models" / request.param, path, outtype="f32")
    return request.param.removeprefix("turbosparse-"), path


@pytest.mark.parametrize("mode", ["dense", "exact", "predicted"])
def test_the_same_tokens_as_before(f32: tuple[str, Path], mode: str) -> None:
    name, path = f32
    recorded = "exact" if mode == "dense" else mode
    options: dict[str, Any] = {"mode": mode, "n_threads": 1, "kv_type": "f32", "flash_attn": "off"}
    with turbosparse.Model(path, n_ctx=128, **options) as model:
        for prompt in PROMPTS:
            result = model.generate(prompt, temperature=0, max_tokens=64, ignore_eos=True)
            assert result.tokens == RECORDED[f"{name} {recorded} {prompt}"], prompt
