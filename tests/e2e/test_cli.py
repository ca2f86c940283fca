"""The issue's "must show" command lines, through the installed `turbosparse` command, on the bundled checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import ggufedit, oracle, tiny

ROOT = Path(__file__).resolve().parents[2]
TURBOSPARSE = Path(sys.executable).with_name("turbosparse")
MODELS = ["turbosparse-micro", "turbosparse-micro-moe"]
GENERATE = ("-p", "The ", "-n", "64", "--temp", "0", "--kv-type", "f32", "--flash-attn", "off", "--json")


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    command = [str(a) for a in (TURBOSPARSE, *args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*args: object, cwd: Path = ROOT) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `turbosparse ARGS`."""
    process = start(*args, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def succeed(*args: object, cwd: Path = ROOT) -> str:
    code, out, err = run(*args, cwd=cwd)
    assert code == 0, f"turbosparse {' '.join(map(str, args))}\n{err}"
    return out


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, F32 file made by `turbosparse convert models/NAME -o m.gguf --outtype f32`)"""
    out = tmp_path_factory.mktemp("cli") / "m.gguf"
    succeed("convert", f"models/{request.param}", "-o", out, "--outtype", "f32")
    return ROOT / "models" / request.param, out


@pytest.fixture(scope="module")
def generated(model: tuple[Path, Path]) -> dict[str, dict[str, Any]]:
    """The JSON objects of the issue's `generate` line, by mode; one thread where any number gives the same."""
    threads: dict[str, tuple[str, ...]] = {"exact": (), "dense": ("-t", "1"), "predicted": ("-t", "1")}
    return {m: json.loads(succeed("generate", model[1], *GENERATE, "--mode", m, *t)) for m, t in threads.items()}


def assert_greedy(run_: oracle.Run, n_prompt: int, tokens: Sequence[int]) -> None:
    """Every token is the oracle's arg max after the ones before it, up to float32's distance from a tie."""
    rows = run_.logits[n_prompt - 1 : n_prompt - 1 + len(tokens)]
    lead = rows.max(axis=1) - rows[np.arange(len(tokens)), list(tokens)]
    assert lead.max() <= 1e-4 * np.ptp(rows), f"token {int(lead.argmax())} is not the oracle's"


def test_exact_gives_the_tokens_of_dense(generated: dict[str, dict[str, Any]]) -> None:
    assert generated["exact"]["tokens"] == generated["dense"]["tokens"]
    assert generated["exact"]["text"] == generated["dense"]["text"]
    assert len(generated["exact"]["tokens"]) == 64 or generated["exact"]["finish_reason"] == "stop"


@pytest.mark.parametrize(("mode", "reference"), [("exact", "dense"), ("predicted", "predicted")])
def test_tokens_are_the_oracles(
    model: tuple[Path, Path], generated: dict[str, dict[str, Any]], mode: str, reference: str
) -> None:
    """exact: the oracle without mask; predicted: with each token's mask."""
    found = generated[mode]
    prompt = found["prompt_tokens"]
    full = oracle.Oracle.from_hf(model[0]).run([*prompt, *found["tokens"]], reference)
    assert_greedy(full, len(prompt), found["tokens"])


@pytest.mark.parametrize(("mode", "reference"), [("exact", "dense"), ("predicted", "predicted")])
def test_64_tokens_are_the_oracles(model: tuple[Path, Path], mode: str, reference: str) -> None:
    """The same beyond the end token, so that a short story does not end the comparison."""
    found = json.loads(succeed("generate", model[1], *GENERATE, "--mode", mode, "--ignore-eos", "-t", 1))
    assert len(found["tokens"]) == 64
    prompt = found["prompt_tokens"]
    assert_greedy(
        oracle.Oracle.from_hf(model[0]).run([*prompt, *found["tokens"]], reference), len(prompt), found["tokens"]
    )


def test_modes_are_really_different(generated: dict[str, dict[str, Any]]) -> None:
    """The mask selects fewer neurons; exact computes every row of one branch."""
    rows = {mode: found["sparsity"]["rows"] for mode, found in generated.items()}
    dense = {mode: found["sparsity"]["rows_dense"] for mode, found in generated.items()}
    assert rows["predicted"] < rows["exact"] < rows["dense"] == dense["dense"]


def test_json_fields(generated: dict[str, dict[str, Any]]) -> None:
    for mode, found in generated.items():
        assert isinstance(found["text"], str)
        assert found["text"]
        timings, sparsity = found["timings"], found["sparsity"]
        for name in ("cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "predicted_per_second"):
            assert timings[name] >= 0, name
        assert timings["prompt_n"] == len(found["prompt_tokens"])
        assert timings["predicted_n"] >= len(found["tokens"])
        assert sparsity["mode"] == mode
        assert 0 < sparsity["active_frac"] < 1
        assert 0 < sparsity["rows"] <= sparsity["rows_dense"]
        assert sparsity["bytes_read"] > 0
        assert sparsity["bytes_dense"] > 0
        assert sparsity["predictor_ms"] > 0 or mode != "predicted"
        assert all(0 < share < 1 for share in sparsity["layers"])


def test_sparsity_is_the_oracles(model: tuple[Path, Path], generated: dict[str, dict[str, Any]]) -> None:
    """active_frac is counted, and equals the oracle's count over the generated tokens that were evaluated."""
    found = generated["exact"]
    prompt = found["prompt_tokens"]
    full = oracle.Oracle.from_hf(model[0]).run([*prompt, *found["tokens"]], "dense")
    n_col = len(full.layers[0].hidden) // (len(prompt) + len(found["tokens"]))
    share = np.mean([np.mean(t.hidden[n_col * len(prompt) :] != 0) for t in full.layers])
    assert found["sparsity"]["active_frac"] == pytest.approx(share, rel=0.05)


def test_text_without_json_is_the_text(model: tuple[Path, Path], generated: dict[str, dict[str, Any]]) -> None:
    out = succeed("generate", model[1], *GENERATE[:-1], "--mode", "exact", "-t", 1)
    assert generated["exact"]["text"].strip() in out


def test_verify_and_inspect(model: tuple[Path, Path]) -> None:
    succeed("verify", model[1], model[0])
    info = json.loads(succeed("inspect", model[1], "--json"))
    assert "drelu" in json.dumps(info)
    assert "turbosparse" in succeed("inspect", model[1]).lower()


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "f16"])
def test_quantize_equals_converting_directly(model: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    """F32 holds the bf16 checkpoint exactly, so the detour must give the same tensors, byte for byte."""
    succeed("quantize", model[1], tmp_path / "detour.gguf", kind)
    succeed("convert", model[0], "-o", tmp_path / "direct.gguf", "--outtype", kind)
    detour, direct = (ggufedit.GgufEdit(tmp_path / f"{name}.gguf") for name in ("detour", "direct"))
    assert {t.name for t in detour.tensors} == {t.name for t in direct.tensors}
    for tensor in detour.tensors:
        if kind != "f16" or "ffn_pred_" not in str(tensor.name):  # float predictors keep the type of their source
            assert (tensor.type, tensor.data) == (direct.tensor(tensor.name).type, direct.tensor(tensor.name).data)
    found = json.loads(succeed("generate", tmp_path / "detour.gguf", *GENERATE, "--mode", "exact", "-t", 1))
    assert found["tokens"]


# --- files that must be refused ------------------------------------------------------


def broken(source: Path, out: Path, how: str) -> Path:
    if how == "truncated":
        out.write_bytes(source.read_bytes()[:-5000])
    elif how == "surplus tensor":
        file = ggufedit.GgufEdit(source)
        file.add_array("blk.0.attn_q.bias", np.zeros(128, np.float32))
        file.write(out)
    elif how == "random":
        out.write_bytes(np.random.default_rng(0).bytes(100_000))
    else:
        out.write_bytes(b"")
    return out


@pytest.mark.parametrize("how", ["truncated", "surplus tensor", "random", "empty"])
@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_broken_file_is_one_paragraph_and_an_exit_code(
    model: tuple[Path, Path], tmp_path: Path, command: str, how: str
) -> None:
    path = broken(model[1], tmp_path / "broken.gguf", how)
    code, out, err = run(command, path, *(("-n", "4") if command == "generate" else ()))
    assert code == 4, err
    assert out == ""
    text = err.strip()
    assert text.count("\n\n") == 0
    assert "Traceback" not in text
    assert "broken.gguf" in text.replace("\n", "")


def test_missing_file_and_wrong_usage(tmp_path: Path) -> None:
    code, _, err = run("generate", tmp_path / "absent.gguf")
    assert code == 4
    assert "absent.gguf" in err.replace("\n", "")
    code, _, err = run("generate")
    assert code == 2
    code, _, err = run("convert", tmp_path / "nowhere", "-o", tmp_path / "x.gguf")
    assert code in {2, 4}
    assert "Traceback" not in err


def test_context_above_the_sliding_window(tmp_path: Path) -> None:
    """Refused with both numbers and the way out, which works."""
    tiny.write_mistral(tmp_path / "hf", sliding_window=64, n_ctx=512)
    succeed("convert", tmp_path / "hf", "-o", tmp_path / "m.gguf", "--outtype", "f32")
    options = (tmp_path / "m.gguf", "-p", "The ", "-n", 2, "-t", 1, "-c", 128)
    code, _, err = run("generate", *options)
    assert code == 3
    assert all(text in err for text in ("128", "64", "--ignore-swa"))
    succeed("generate", *options, "--ignore-swa")


def test_stock_model_is_refused_with_advice(model: tuple[Path, Path], tmp_path: Path) -> None:
    """A llama file is sound, but not ours: exit 3 and what to do instead."""
    file = ggufedit.GgufEdit(model[1])
    file.set("general.architecture", "llama")
    code, _, err = run("generate", file.write(tmp_path / "stock.gguf"))
    assert code == 3
    assert "convert" in err


def test_swiglu_checkpoint_is_refused(tmp_path: Path) -> None:
    """A sparse export would be wrong; the error says what to do, and nothing is written."""
    tiny.write_reglu(tmp_path / "hf", hidden_act="silu")
    code, _, err = run("convert", tmp_path / "hf", "-o", tmp_path / "x.gguf")
    assert code == 3
    assert "silu" in err.lower()
    assert list(tmp_path.iterdir()) == [tmp_path / "hf"]


# --- interrupted conversions ------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 MB of F32: long enough to be interrupted."""
    shape = {"n_embd": 512, "n_ff": 2048, "n_layer": 3, "n_head": 8, "ranks": (64,)}
    return tiny.write_mistral(tmp_path_factory.mktemp("large") / "hf", **shape)


def interrupt(large: Path, out: Path, number: int) -> int:
    """Convert, and send a signal as soon as something is being written; returns the exit code."""
    process = start("convert", large, "-o", out, "--outtype", "q4_k", cwd=out.parent)
    deadline = time.monotonic() + 60
    while process.poll() is None and not any(out.parent.glob("*.part*")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    return process.returncode


def test_kill_9_leaves_nothing_under_the_final_name(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    assert interrupt(large, out, signal.SIGKILL) == -signal.SIGKILL
    assert not out.exists()
    stale = list(tmp_path.glob("*.part*"))
    assert stale
    code, _, err = run("convert", large, "-o", out, "--outtype", "q4_k")
    assert code == 0, err
    assert stale[0].name in err.replace("\n", ""), "the next run reports the stale file"
    assert list(tmp_path.iterdir()) == [out]
    succeed("generate", out, "-n", "2")


def test_ctrl_c_in_convert(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    assert interrupt(large, out, signal.SIGINT) == 130
    assert not out.exists()


# --- synthetic checkpoints -----------------------------------------------------------------


@pytest.mark.parametrize("n_expert", [0, 4])
def test_synth_convert_generate_shows_the_planted_sparsity(tmp_path: Path, n_expert: int) -> None:
    """The counters show what was planted: 90 % zero, 85 % within an expert, within 3 points."""
    shape = ("--n-embd", 512, "--n-ff", 1536, "--n-head", 8, "--n-head-kv", 2, "--n-vocab", 2048, "--rank", 128)
    shape = (*shape, "--n-expert", n_expert) if n_expert else shape
    succeed("synth", "--shape", "custom", "--layers", 2, *shape, "-o", tmp_path / "big")
    succeed("convert", tmp_path / "big", "-o", tmp_path / "big.gguf", "--outtype", "q4_0")
    found = json.loads(
        succeed("generate", tmp_path / "big.gguf", "-n", "8", "--mode", "exact", "--ignore-eos", "-t", 1, "--json")
    )
    planted = 0.15 if n_expert else 0.10
    assert found["sparsity"]["active_frac"] == pytest.approx(planted, abs=0.03)
