"""Text against independent references: tokens against SentencePiece, perplexity and profile against the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm

from tests import ggufedit, oracle
from tests.conftest import Case
from tests.e2e.test_cli import MODELS, ROOT, succeed

SAMPLE = ROOT / "models" / "text" / "sample.txt"
HELDOUT = ROOT / "models" / "text" / "heldout.txt"
LINES = [
    "Hello world",
    " two  spaces   three",
    "line\nbreak\n\ttab ",
    "naïve café – “quotes” … €",
    "日本語 и русский 🙂",
    "0123456789 3.14159",
    "<s> is text, and so is </s> and <|im_end|>",
    "x" * 300,
    " ",
    "\n",
]


@pytest.fixture(scope="module")
def models(mistral: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """The bundled checkpoints as F32, hot-first by our engine's own profile of the first 1000 tokens of the sample."""
    profile = ("--profile-text", SAMPLE, "--profile-tokens", 1000)
    found = {"tiny": mistral}
    for name in MODELS:
        found[name] = Case(ROOT / "models" / name, tmp_path_factory.mktemp("text") / "m.gguf")
        succeed("convert", found[name].hf, "-o", found[name].gguf, "--outtype", "f32", *profile)
    return found


@pytest.fixture(params=["tiny", *MODELS])
def case(request: pytest.FixtureRequest, models: dict[str, Case]) -> Case:
    return models[request.param]


@pytest.fixture(params=MODELS)
def micro(request: pytest.FixtureRequest, models: dict[str, Case]) -> Case:
    return models[request.param]


def sentencepiece(hf: Path) -> Any:
    return spm.SentencePieceProcessor(model_proto=(hf / "tokenizer.model").read_bytes())


def test_tokens_are_sentencepieces(case: Case) -> None:
    processor = sentencepiece(case.hf)
    lines = [*LINES, *SAMPLE.read_text(encoding="utf-8").splitlines()[:200]]
    with case.open(n_ctx=16) as model:
        for line in filter(None, lines):
            assert model.tokenize(line, add_special=False) == processor.encode(line), line
            assert model.tokenize(line)[0] == processor.bos_id()


def test_text_survives_the_round_trip(case: Case) -> None:
    with case.open(n_ctx=16) as model:
        for line in LINES:
            assert model.detokenize(model.tokenize(line, add_special=False)) == line


def test_chatml_tokens_are_single_and_end_the_turn(case: Case) -> None:
    n = sentencepiece(case.hf).vocab_size()
    added = json.loads((case.hf / "added_tokens.json").read_text())
    end, start = added["<|im_end|>"], added["<|im_start|>"]
    assert {end, start} == {n, n + 1}
    with case.open(n_ctx=16) as model:
        tokens = model.tokenize("<|im_start|>user\nHi<|im_end|>", add_special=False, parse_special=True)
        assert tokens[0] == start
        assert tokens[-1] == end
        assert model.info.token_eos == end
        assert model.is_end(end)
        assert not model.is_end(start)
        assert end not in model.tokenize("<|im_end|>", add_special=False), "text is not a control token"


@pytest.mark.parametrize(("mode", "reference"), [("exact", "dense"), ("predicted", "predicted")])
def test_perplexity_is_the_oracles(micro: Case, mode: str, reference: str) -> None:
    """Two windows of 128 tokens, the second halves scored (llama-perplexity's way)."""
    options = ("-c", 128, "--windows", 2, "--kv-type", "f32", "--flash-attn", "off", "-t", 1, "--json")
    found = json.loads(succeed("perplexity", micro.gguf, "--text", HELDOUT, "--mode", mode, *options))
    tokens = [1, *sentencepiece(micro.hf).encode(HELDOUT.read_text(encoding="utf-8"))]
    nll = []
    for window in (tokens[:128], [1, *tokens[129:256]]):
        rows = micro.oracle.run(window, reference).logits[64:-1]
        rows = (
            rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
        )
        nll += (-rows[np.arange(63), window[65:]]).tolist()
    assert found["tokens"] == len(nll) == 126
    assert found["ppl"] == pytest.approx(np.exp(np.mean(nll)), rel=2e-3 if mode == "predicted" else 1e-4)


def test_profile_text_orders_by_the_oracles_counts(micro: Case) -> None:
    """Frequencies in the file are those of the oracle over the same tokens (windows of 512), in the default mode."""
    tokens = [1, *sentencepiece(micro.hf).encode(SAMPLE.read_text(encoding="utf-8"))][:1000]
    file = ggufedit.GgufEdit(micro.gguf)
    assert file.key("turbosparse.ffn.neuron_order").value == "hot_first"
    assert file.key("turbosparse.default_mode").value == "predicted"
    runs = [micro.oracle.run(w, mode="predicted") for w in (tokens[:512], [1, *tokens[512:]])]
    for il in range(micro.oracle.n_layer):
        freq = np.atleast_2d(file.array(f"blk.{il}.ffn_neuron_freq"))
        perm = np.atleast_2d(file.array(f"blk.{il}.ffn_neuron_perm"))
        assert (np.diff(freq, axis=1) <= 0).all()
        assert frequency_error(runs, il, freq, perm) < 0.01, "more than the F16 KV cache explains"


def frequency_error(runs: list[oracle.Run], il: int, freq: Any, perm: Any) -> float:
    hidden = np.vstack([r.layers[il].hidden for r in runs])
    expert = np.concatenate([r.layers[il].expert for r in runs])
    share = np.stack([(hidden[expert == e] != 0).mean(0)[perm[e]] for e in range(len(freq))])
    return float(np.abs(share - freq).max())
