"""The four commands as a user types them: output, exit codes, and one paragraph per error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from turbosparse.cli.main import main

from tests import tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_convert_inspect_verify_quantize(run: Run, mistral_dir: Path, tmp_path: Path) -> None:
    out, q4 = tmp_path / "m.gguf", tmp_path / "q4.gguf"
    code, text, notes = run("convert", mistral_dir, "-o", out, "--outtype", "f32")
    assert code == 0
    assert "27 tensors" in text
    assert "eos is <|im_end|>" in notes
    code, text, _ = run("inspect", out, "--json")
    assert (code, json.loads(text)["architecture"]["activation"]) == (0, "drelu")
    code, text, _ = run("verify", out, mistral_dir)
    assert code == 0
    assert "27 tensors" in text
    assert "bit-equal" in text
    assert run("quantize", out, q4, "q4_0")[0] == 0
    code, text, _ = run("verify", q4, mistral_dir, "--json")
    assert code == 0
    assert json.loads(text)["ok"]


def test_json_report_and_stale_part(run: Run, mistral_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(b"half")
    code, text, _ = run("convert", mistral_dir, "-o", tmp_path / "m.gguf", "--outtype", "q6_k", "--json")
    facts = json.loads(text)
    assert code == 0
    assert facts["removed_stale_part"] is True
    assert facts["bytes"] == (tmp_path / "m.gguf").stat().st_size
    assert "blk.0.ffn_up.weight" in facts["fallbacks"]
    (tmp_path / "m.gguf.part").write_bytes(b"half")
    _, _, notes = run("convert", mistral_dir, "-o", tmp_path / "m.gguf", "--force")
    assert "removed m.gguf.part" in notes


def test_dry_run_writes_nothing(run: Run, mistral_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    code, text, _ = run("convert", mistral_dir, "-o", out, "--outtype", "q4_k", "--dry-run")
    assert code == 0
    assert "(q4_k does not fit a width of 64)" in text
    assert "Nothing was written" in text
    code, text, _ = run("convert", mistral_dir, "-o", out, "--outtype", "q4_k", "--dry-run", "--json")
    plan = json.loads(text)
    assert not list(tmp_path.iterdir())
    fell = {t["name"]: (t["wanted"], t["type"]) for t in plan["tensors"] if t["wanted"]}
    assert fell["blk.0.ffn_up.weight"] == ("q4_k", "q5_0")
    assert plan["peak_memory_bytes_estimated"] < 2e9
    assert plan["seconds_estimated"] >= 0
    run("convert", mistral_dir, "-o", out, "--outtype", "q4_k")
    assert abs(out.stat().st_size - plan["bytes"]) < 100_000  # but for the header


def test_default_name(run: Run, mistral_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("convert", mistral_dir, "--outtype", "q8_0")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["mistral-Q8_0.gguf"]


@pytest.fixture
def bad(tmp_path: Path, mistral_dir: Path) -> dict[str, list[Any]]:
    """Command lines that must fail, by their exit code and name."""
    from turbosparse.convert import convert

    good = convert(mistral_dir, tmp_path / "good.gguf")
    cut, junk = tmp_path / "cut.gguf", tmp_path / "junk.gguf"
    cut.write_bytes(good.read_bytes()[:-4096])
    junk.write_bytes(b"\x7fELF" * 1000)
    silu = tiny.write_reglu(tmp_path / "silu", hidden_act="silu")
    other = tiny.write_mistral(tmp_path / "other", seed=8)
    out = tmp_path / "out.gguf"
    return {
        "2 type": ["convert", mistral_dir, "-o", out, "--outtype", "q4_k_m"],
        "2 exists": ["convert", mistral_dir, "-o", good],
        "2 both": ["convert", mistral_dir, "-o", out, "--stats", "a", "--profile-text", "b"],
        "2 text": ["convert", mistral_dir, "-o", out, "--profile-text", tmp_path / "none.txt"],
        "3 silu": ["convert", silu, "-o", out],
        "4 source": ["convert", tmp_path / "none", "-o", out],
        "4 cut": ["inspect", cut],
        "4 junk": ["inspect", junk],
        "4 verify": ["verify", cut, mistral_dir],
        "4 quantize": ["quantize", junk, out, "q4_0"],
        "6 other": ["verify", good, other],
    }


def test_errors_are_one_paragraph_and_an_exit_code(run: Run, bad: dict[str, list[Any]], tmp_path: Path) -> None:
    for name, arguments in bad.items():
        code, _, err = run(*arguments)
        assert code == int(name[0]), (name, err)
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1, (name, err)
        assert lines[0].startswith("turbosparse: error: "), name
        assert "Traceback" not in err
        assert not (tmp_path / "out.gguf").exists(), name


def test_profile_text(run: Run, mistral_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(tiny.SENTENCES) * 3)
    out = tmp_path / "m.gguf"
    code, _, err = run("convert", mistral_dir, "-o", out, "--outtype", "f32", "--profile-text", text)
    assert code == 0, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "text.txt"]  # nothing temporary is left
    facts = json.loads(run("inspect", out, "--json")[1])
    assert facts["placement"] == {"neuron_order": "hot_first", "layers_with_map": 2, "hot_prefix_possible": True}
    assert facts["sparsity"]["corpus"] == "text.txt"
    assert 0.2 < facts["sparsity"]["mean_zero"] < 1
    assert run("verify", out, mistral_dir)[0] == 0


@pytest.mark.parametrize("command", ["convert", "inspect", "verify", "quantize"])
def test_help_is_fast_and_imports_nothing_heavy(command: str) -> None:
    code = f"""
import sys
from turbosparse.cli.main import main
main([{command!r}, "-h"])
sys.exit(", ".join({{"numpy", "gguf", "torch", "llama_cpp"}} & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "turbosparse " + command in done.stdout


def test_interrupt_is_130_and_leaves_nothing(
    run: Run, mistral_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("turbosparse.convert.export.encoded_blocks", interrupted)
    code, _, err = run("convert", mistral_dir, "-o", tmp_path / "m.gguf")
    assert code == 130
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())
