"""`turbosparse bench`: schema, formats, comparison, interruption."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from turbosparse.bench.output import render
from turbosparse.bench.plan import Settings, Test
from turbosparse.bench.record import OURS, Run
from turbosparse.bench.runner import Job, Part, Runner
from turbosparse.cli.main import main

# fields of upstream's llama-bench, from its source: scripts made for it must find them
LLAMA_BENCH = [
    "build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type",
    "model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads", "cpu_mask", "cpu_strict", "poll", "type_k",
    "type_v", "n_gpu_layers", "n_cpu_moe", "split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices",
    "tensor_split", "tensor_buft_overrides", "load_mode", "lazy_mode", "embeddings", "no_op_offload", "no_host",
    "repack", "fit_target", "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns",
    "avg_ts", "stddev_ts",
]  # fmt: skip

QUICK = ("-t", "1", "-r", "1", "-p", "8", "-n", "4", "--no-warmup")


def bench(*arguments: object) -> int:
    return main(["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def rows(twins: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of one comparison with stock llama.cpp."""
    out = tmp_path_factory.mktemp("out") / "rows.json"
    options = ("-t", 1, "-r", 3, "-p", 8, "-n", 10, "-d", "0,30", "--load", "--mode", "dense,exact,predicted")
    against = ("--against", "llama.cpp", "--baseline-buffer", "CPU")
    assert bench(twins, *options, *against, "-o", "json", "--out", out) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_schema(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert list(row) == [*LLAMA_BENCH, *OURS, "samples_ns", "samples_ts"]
    assert [row["test"] for row in rows if row["mode"] == "exact"] == ["load", "pp8", "tg10", "pp8 @ d30", "tg10 @ d30"]
    assert {row["mode"] for row in rows} == {"dense", "exact", "predicted", "llama.cpp"}


def test_llama_bench_fields_mean_the_same(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        # stock takes turns with the predicted mode's engine, then with that of the others
        n = 6 if row["mode"] == "llama.cpp" and row["test"] != "load" else 3
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == n
        assert row["avg_ns"] == pytest.approx(sum(row["samples_ns"]) / n, abs=1)
        tokens = row["n_prompt"] + row["n_gen"]
        assert row["samples_ts"][0] == pytest.approx(1e9 * tokens / row["samples_ns"][0])
        assert row["n_threads"] == 1


def test_sparsity_columns(rows: list[dict[str, Any]]) -> None:
    by_mode = {row["mode"]: row for row in rows if row["test"] == "tg10"}
    dense, exact, predicted, stock = (by_mode[m] for m in ("dense", "exact", "predicted", "llama.cpp"))
    assert dense["active_frac"] == exact["active_frac"]
    assert 0.05 < exact["active_frac"] < 0.15
    assert exact["selected_frac"] == 1
    assert predicted["active_frac"] <= predicted["selected_frac"] < 0.3
    assert 0.8 < predicted["recall"] <= 1
    assert exact["recall"] is None
    assert predicted["bytes_per_token"] < dense["bytes_per_token"]
    assert stock["bytes_per_token"] == pytest.approx(dense["bytes_per_token"], rel=0.01)
    assert stock["active_frac"] is None
    assert 0 < predicted["predictor_frac"] < 1
    for row in by_mode.values():
        assert row["bandwidth_frac"] == pytest.approx(row["gbs"] / row["bandwidth_gbs"])
    deep = next(row for row in rows if row["test"] == "tg10 @ d30" and row["mode"] == "exact")
    per_position = 2 * 2 * 2 * 64 * 2  # K and V, layers, heads, width, bytes
    assert deep["kv_bytes_per_token"] == per_position * 35
    assert exact["kv_bytes_per_token"] == per_position * 5


def test_ratios(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["mode"] == "llama.cpp":
            assert row["ratio"] is None
            assert row["buffer_type"] == "CPU"
            continue
        low, high = row["ratio_ci95"]
        assert low <= row["ratio"] <= high
        assert row["ratio_turns"] == 3 * (2 if row["test"].startswith("tg") else 1)
        assert "llama.cpp CPU" in row["baseline"]


def test_csv(rows: list[dict[str, Any]]) -> None:
    found = list(csv.DictReader(io.StringIO(render(rows, "csv"))))
    assert len(found) == len(rows)
    assert list(found[0])[: len(LLAMA_BENCH)] == LLAMA_BENCH
    assert float(found[0]["ratio_ci95_low"]) == rows[0]["ratio_ci95"][0]


def test_sql(rows: list[dict[str, Any]]) -> None:
    rows = [dict(rows[0], model_filename="it's; DROP TABLE llama_bench"), *rows[1:]]
    base = sqlite3.connect(":memory:")
    base.executescript(render(rows, "sql"))
    found = base.execute("SELECT model_filename, avg_ts, ratio FROM llama_bench").fetchall()
    assert found == [(r["model_filename"], r["avg_ts"], r["ratio"]) for r in rows]


def test_jsonl(rows: list[dict[str, Any]]) -> None:
    assert [json.loads(line) for line in render(rows, "jsonl").splitlines()] == rows


def test_markdown(rows: list[dict[str, Any]]) -> None:
    lines = render(rows, "md").splitlines()
    assert len(lines) == len(rows) + 2
    assert len({len(line) for line in lines}) == 1
    assert "x baseline" in lines[0]
    assert "n_batch" not in lines[0]  # as it goes without saying
    assert render([], "md") == ""


@pytest.mark.parametrize("form", ["md", "csv", "json", "jsonl", "sql"])
def test_every_format_on_standard_output(twins: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(twins, *QUICK, "-o", form, "--mode", "exact") == 0
    out = capsys.readouterr().out
    assert out.count("pp8") == out.count("tg4") == 1


def test_several_sequences(twins: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    options = ("-t", 1, "-r", 2, "-p", 0, "-n", 4, "-npl", "1,3", "-d", 20, "--mode", "exact,predicted")
    against = ("--against", "llama.cpp", "--baseline-buffer", "CPU")
    assert bench(twins, *options, *against, "-o", "json", "--out", out) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert {(row["test"], row["n_seq"]) for row in rows} == {("tg4 @ d20", 1), ("tg4 x3 @ d20", 3)}
    for row in rows:
        assert row["samples_ts"][0] == pytest.approx(1e9 * 4 * row["n_seq"] / row["samples_ns"][0])
        assert (row["gbs"] is None) == (row["n_seq"] > 1)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--against", "llama.cpp", "--baseline", "none.gguf"], 4, "none.gguf does not exist"),
        (["-p", "x"], 2, "-p takes numbers"),
        (["-p", "0", "-n", "0"], 2, "nothing to run"),
        (["--mode", "fast"], 2, "--mode takes a list"),
        (["-ctv", "f32"], 2, "one type"),
        (["--bandwidth", "60-40"], 2, "--bandwidth does not take"),
        (["--out", "/nonexistent/x.json"], 4, "cannot be written"),
    ],
)
def test_usage(twins: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(twins, "-t", "1", "-r", "1", "-p", "2", "-n", "0", *arguments) == code
    assert words in capsys.readouterr().err


def test_a_missing_twin_says_how_to_make_it(twins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone.gguf"
    alone.symlink_to(twins)
    assert bench(alone, "--against", "llama.cpp") == 4
    assert "synth --gguf" in capsys.readouterr().err


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if parent == pid:
                yield int(entry.name)


def stock(pid: int) -> list[int]:
    """Processes started by `pid` that have loaded llama.cpp; those before exec only look like it."""
    found = []
    for child in children(pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            command, parent = (Path(f"/proc/{p}/cmdline").read_bytes() for p in (child, pid))
            if command != parent and "libllama" in Path(f"/proc/{child}/maps").read_text():
                found.append(child)
    return found


def test_interruption_leaves_nothing_half_written(twins: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    out.write_text("before")
    options = ["-t", "1", "-p", "0", "-n", "400", "-r", "500", "--against", "llama.cpp", "--baseline-buffer", "CPU"]
    command = [sys.executable, "-m", "turbosparse.cli", "bench", str(twins), *options, "-o", "json", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (spawned := stock(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert out.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in spawned)


def test_a_slow_baseline_gives_way_to_dense_bytes_over_bandwidth(twins: Path) -> None:
    test, settings = Test(n_gen=8), Settings(1)
    job = Job(twins, [settings], [test], ["exact"], baseline=twins.with_name("m.dense.gguf"))
    runner = Runner(job, lambda text: None, lambda label, done, total: None)
    assert runner.opponent
    dense = runner.opponent.file.bytes_token + 2 * 2 * 2 * 64 * 2 * 4
    bandwidth = 1e9
    ideal = round(1e9 * 8 * dense / bandwidth)

    def ratio(reached: float) -> tuple[Any, Any]:
        runs = [
            Run("exact", "", [ideal // 2] * 5, [ideal // 2] * 5),
            Run("llama.cpp", "AMX", [round(ideal / reached)] * 5, [round(ideal / reached)] * 5),
        ]
        record = runner.records(test, settings, [Part(runs, [bandwidth] * 5)])[0]
        assert record.ratio
        return record.ratio.median, record.baseline

    assert ratio(0.5) == (pytest.approx(2.0, rel=1e-3), "dense bytes / bandwidth (llama.cpp AMX reaches 50%)")
    assert ratio(0.9) == (pytest.approx(2.0 / 0.9, rel=1e-3), "llama.cpp AMX")
