"""The command line: speed of help, exit codes, output, errors of one paragraph."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from turbosparse import errors
from turbosparse.cli import main as cli

from tests.python.sources import HELDOUT, python

# Bit-equal runs. One thread: libgomp's threads spin, which is slow when others use the machine.
EXACTLY = ("--kv-type", "f32", "--flash-attn", "off", "-t", "1")


def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`turbosparse ...` in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", "turbosparse.cli", *map(str, arguments)],
        capture_output=True, text=True, input=stdin, timeout=300, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def generate(file: Path, *arguments: object, **options: Any) -> dict[str, Any]:
    done = run("generate", file, "--json", *EXACTLY, *arguments, **options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# --- help ------------------------------------------------------------------------


def test_help_is_fast() -> None:
    """Below 0.3 s of CPU: the best of several, and not by the clock, since others use the machine too."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("-h")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert min(seconds) < 0.3, seconds
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    heavy = python(
        "import sys; from turbosparse.cli.main import main; main(['-h'])\n"
        "heavy = {'numpy', 'turbosparse._native', 'llama_cpp', 'gguf', 'torch', 'jinja2', 'rich'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    assert heavy.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_exists_and_teaches(name: str) -> None:
    assert importlib.util.find_spec(f"turbosparse.cli.{name}") is not None
    done = run(name, "-h")
    assert done.returncode == 0, done.stderr
    assert f"Usage: turbosparse {name}" in done.stdout
    assert len(done.stdout.splitlines()) > 8


def test_version() -> None:
    done = run("--version")
    assert done.stdout.split()[0] == "turbosparse"
    assert done.stdout.split()[1][0].isdigit()


# --- exit codes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], ["none"], ["generate"], ["generate", "x", "--mode", "fast"], ["generate", "x", "-n", "many"]]
)
def test_usage_errors(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert "Traceback" not in done.stderr


def assert_paragraph(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout.strip() == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("turbosparse: error: ")
    for part in parts:
        assert part in lines[0]


def test_a_missing_file(tmp_path: Path) -> None:
    assert_paragraph(run("generate", tmp_path / "none.gguf"), 4, "none.gguf")


def test_a_file_of_noise(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(os.urandom(1 << 16))
    assert_paragraph(run("generate", path, "-p", "a"), 4, "noise.gguf")
    assert_paragraph(run("perplexity", path, "--text", HELDOUT), 4, "noise.gguf")


def test_a_truncated_file(micro: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(micro.read_bytes()[:-5000])
    assert_paragraph(run("generate", path, "-p", "a"), 4, "short.gguf")


def test_a_traceback_only_on_request(tmp_path: Path) -> None:
    done = run("--debug", "generate", tmp_path / "none.gguf")
    assert "Traceback" in done.stderr
    assert "FileError" in done.stderr
    assert "Traceback" in run("generate", tmp_path / "none.gguf", "--debug").stderr


def test_a_context_above_the_sliding_window(cases: Any) -> None:
    path = cases("mistral", sliding_window=48).gguf
    assert_paragraph(run("generate", path, "-c", 64), 3, "48", "64", "--ignore-swa")
    assert generate(path, "-c", 64, "--ignore-swa", "-n", 2)["finish_reason"] in ("length", "stop")


def test_a_prompt_that_does_not_fit(micro: Path) -> None:
    assert_paragraph(run("generate", micro, "-c", 16, "-p", "word " * 100), 2, "16")


def test_grammar_and_schema_exclude_each_other(micro: Path) -> None:
    done = run("generate", micro, "--grammar", 'root ::= "a"', "--json-schema", "{}")
    assert_paragraph(done, 2, "--grammar", "--json-schema")


def test_a_text_that_is_no_utf8(micro: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"abc\xff")
    assert_paragraph(run("perplexity", micro, "--text", path), 4, "t.txt", "byte 3", "0xff")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.UnsupportedModelError("a\n  b"), 3, "turbosparse: error: a b\n"),
        (errors.HostError("h"), 7, "turbosparse: error: h\n"),
        (MemoryError("m"), 5, "turbosparse: error: MemoryError: m (--debug shows where)\n"),
        (RuntimeError(), 1, "turbosparse: error: RuntimeError: RuntimeError (--debug shows where)\n"),
    ],
)
def test_report(error: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report(error) == code
    assert capsys.readouterr().err == text


def test_errors_of_conversion_have_their_codes(tmp_path: Path) -> None:
    assert_paragraph(run("convert", tmp_path / "none", "-o", tmp_path / "x.gguf"), 4, "none")


# --- generate ----------------------------------------------------------------------


def test_json_has_everything(micro: Path) -> None:
    result = generate(micro, "-p", "The ", "-n", 16, "--temp", 0, "--mode", "exact")
    assert set(result) >= {
        "text", "tokens", "prompt_tokens", "finish_reason", "seed", "mode", "timings", "sparsity",
    }  # fmt: skip
    assert result["mode"] == result["sparsity"]["mode"] == "exact"
    assert len(result["tokens"]) == result["timings"]["predicted_n"] <= 16
    assert set(result["sparsity"]) >= {
        "mode", "active_frac", "selected_frac", "rows", "rows_dense", "bytes_read", "bytes_dense", "predictor_ms",
        "layers",
    }  # fmt: skip
    assert 0 < result["sparsity"]["rows"] < result["sparsity"]["rows_dense"]


def test_exact_equals_dense(micro: Path) -> None:
    found = [
        generate(micro, "-p", "The ", "-n", 64, "--temp", 0, "--mode", mode)["tokens"] for mode in ("exact", "dense")
    ]
    assert found[0] == found[1] != []


def test_text_and_json_are_the_same(micro: Path) -> None:
    arguments = ["-p", "The ", "-n", 24, "--temp", 0, *EXACTLY]
    done = run("generate", micro, *arguments)
    assert done.returncode == 0, done.stderr
    result = generate(micro, *arguments)
    assert done.stdout == result["text"] + "\n"
    (line,) = done.stderr.splitlines()
    assert f"{len(result['tokens'])} tokens" in line
    for part in ("tok/s", "mode predicted", "% of FFN rows computed", "per token, dense", "seed"):
        assert part in line


def test_without_a_prompt_it_begins_at_bos(micro: Path) -> None:
    assert generate(micro, "-n", 4, "--temp", 0)["prompt_tokens"] == [1]


def test_a_prompt_from_standard_input(micro: Path) -> None:
    piped = generate(micro, "-p", "-", "-n", 4, "--temp", 0, stdin="The king")
    assert piped["tokens"] == generate(micro, "-p", "The king", "-n", 4, "--temp", 0)["tokens"]


def test_sampling_options_arrive(micro: Path) -> None:
    options = ["-p", "The ", "-n", 16, "--temp", 1.5, "--top-k", 50, "--top-p", 1, "--min-p", 0, "--seed", 11]
    first, again = generate(micro, *options), generate(micro, *options, "--repeat-penalty", 1)
    assert first["tokens"] == again["tokens"]
    assert first["seed"] == 11
    assert generate(micro, *options, "--repeat-penalty", 5)["tokens"] != first["tokens"]


def test_stop_and_threads(micro: Path) -> None:
    whole = generate(micro, "-p", "The ", "-n", 24, "--temp", 0, "-t", 1, "--ignore-eos")
    stop = whole["text"][8:10]
    cut = generate(
        micro, "-p", "The ", "-n", 24, "--temp", 0, "-t", 2, "--ignore-eos", "--stop", stop, "--stop", "\x01"
    )
    assert cut["text"] == whole["text"].partition(stop)[0]
    assert cut["finish_reason"] == "stop"


def test_grammar_and_schema(micro: Path, tmp_path: Path) -> None:
    (tmp_path / "g.gbnf").write_text('root ::= "yes" | "no"')
    assert generate(micro, "--grammar", f"@{tmp_path / 'g.gbnf'}")["text"] in ("yes", "no")
    assert json.loads(generate(micro, "--json-schema", '{"enum": [1, 2]}')["text"]) in (1, 2)


def test_chat_uses_the_template(micro: Path) -> None:
    chat = generate(micro, "--chat", "-p", "Hello", "-n", 1)
    told = generate(micro, "--system", "Be brief.", "-p", "Hello", "-n", 1)
    plain = generate(micro, "-p", "Hello", "-n", 1)
    written = generate(micro, "-p", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "-n", 1)
    assert chat["prompt_tokens"] == written["prompt_tokens"] != plain["prompt_tokens"]
    assert len(told["prompt_tokens"]) > len(chat["prompt_tokens"])


def test_ctrl_c_ends_with_130(cases: Any) -> None:
    path = cases("mistral", n_ctx=8192, n_layer=4).gguf
    command = ["generate", path, "-n", "-1", "--mode", "reference", "--ignore-eos", "-t", "1", "-c", "8192"]
    process = subprocess.Popen(
        [sys.executable, "-m", "turbosparse.cli", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(1)  # it generates
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_closed_pipe_is_no_crash(micro: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "turbosparse.cli", "generate", str(micro), "-n", "200", "--ignore-eos", "-t", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in stderr


def test_a_context_above_the_training_context(micro: Path) -> None:
    options = ("--ignore-swa", "-n", 1, *EXACTLY)
    done = run("generate", micro, "-c", 9000, *options)
    assert done.returncode == 0, done.stderr
    assert "note: 9000 tokens of context are more than the 8192" in done.stderr
    assert "note" not in run("generate", micro, "-c", 8192, *options).stderr


# --- perplexity --------------------------------------------------------------------


def test_perplexity(micro: Path) -> None:
    arguments = ["perplexity", micro, "--text", HELDOUT, "-c", 64, "--windows", 3, *EXACTLY]
    done = run(*arguments, "--json", "--mode", "exact")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["windows"], result["n_ctx"], result["tokens"], result["mode"]) == (3, 64, 93, "exact")
    assert result["sparsity"]["rows"] < result["sparsity"]["rows_dense"]
    plain = run(*arguments, "--mode", "exact", "--against", micro)
    assert plain.stdout.startswith(f"perplexity {result['ppl']:.4f} +- ")
    assert f"KL divergence 0.000000 +- 0.000000 from {micro.name} (mode exact)" in plain.stdout
