"""The doctor, on this machine and on broken installations."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from turbosparse.cli.doctor import show, verdict
from turbosparse.cli.main import main
from turbosparse.doctor import Check, child, engine, healthy, instructions, machine, packages

from tests.python.sources import PACKAGE, ROOT

BASE = Path(sys.base_prefix) / "bin" / "python3"
SITE = Path(sysconfig.get_paths()["purelib"])


# --- here -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    command = [sys.executable, "-m", "turbosparse", "doctor", "--json", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0, [check for check in found["checks"] if check["status"] == "fail"]
    return found


def find(report: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    return next(c for c in report["checks"] if (c["section"], c["name"]) == (section, name))


def test_it_works_here(here: dict[str, Any]) -> None:
    assert here["ok"]
    assert find(here, "engine", "self-test")["status"] == "ok"
    assert find(here, "engine", "kernels generic")["status"] == "ok"
    assert "8 tokens" in find(here, "engine", "generation")["value"]
    assert "0.25.3" in find(here, "llama.cpp", "libraries")["value"]
    assert "CPU" in find(here, "llama.cpp", "devices")["value"]
    assert find(here, "packages", "llama-cpp-python")["value"] == "0.3.36"
    assert {c["section"] for c in here["checks"]} >= {"system", "build tools", "cpu", "memory", "graphics", "disk"}
    for check in here["checks"]:
        assert check["status"] in ("ok", "note", "warn", "fail")
        assert bool(check["fix"]) or check["status"] in ("ok", "note") or check["section"] == "cpu", check


def test_what_the_kernels_use_really_runs(here: dict[str, Any]) -> None:
    kernels = {c["name"].split()[1] for c in here["checks"] if c["name"].startswith("kernels ")}
    runs = {c["name"].replace("_", "") for c in here["checks"] if c["section"] == "cpu" and c["value"] == "runs"}
    assert kernels - {"generic"} <= runs, "the engine picked an instruction set that does not run"


def test_the_hosts_amx_was_tried_where_it_has_any(here: dict[str, Any]) -> None:
    built_for = find(here, "llama.cpp", "built for")["value"].split()
    assert ("amx_int8" in built_for) == any(c["name"] == "amx products" for c in here["checks"])


def test_bandwidth_is_measured() -> None:
    (check,) = engine.bandwidth()
    assert check.status in ("ok", "warn")
    assert "GB/s" in check.value


# --- elsewhere --------------------------------------------------------------------------


def examined(tmp_path: Path, without: tuple[str, ...] = (), host: Path | None = None) -> dict[str, Any]:
    """The report of an installation put together from symbolic links."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in SITE.iterdir():
        if entry.suffix != ".pth" and entry.name not in ("turbosparse", *without):
            (site / entry.name).symlink_to(entry)
    if host is not None:
        (site / "llama_cpp").symlink_to(host)
    package = site / "turbosparse"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "static", "train", "*.so"))
    shutil.copytree(ROOT / "convert", package / "convert", ignore=shutil.ignore_patterns("__pycache__"))
    command = [str(BASE), "-m", "turbosparse", "doctor", "--json", "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert not report["ok"]
    return report


def test_without_our_library(tmp_path: Path) -> None:
    report = examined(tmp_path)
    library = find(report, "engine", "library")
    assert library["status"] == "fail"
    assert "libggml-sparse.so is in none of" in library["value"]
    assert "pip install" in library["value"] + library["fix"]
    assert find(report, "llama.cpp", "libraries")["status"] == "ok"


def test_without_llama_cpp(tmp_path: Path) -> None:
    report = examined(tmp_path, without=("llama_cpp", "llama_cpp_python-0.3.36.dist-info"))
    assert find(report, "llama.cpp", "llama-cpp-python")["value"] == "not installed"
    assert "pip install" in find(report, "llama.cpp", "llama-cpp-python")["fix"]
    assert "not installed" in find(report, "llama.cpp", "libraries")["value"]
    assert find(report, "engine", "library")["status"] == "fail"
    assert find(report, "packages", "llama-cpp-python")["status"] == "fail"


def test_with_another_ggml(tmp_path: Path) -> None:
    host = tmp_path / "other" / "llama_cpp"
    (host / "lib").mkdir(parents=True)
    (host / "__init__.py").touch()
    (host / "lib" / "libggml-base.so.0.9.9").touch()
    report = examined(tmp_path, without=("llama_cpp",), host=host)
    libraries = find(report, "llama.cpp", "libraries")
    assert libraries["status"] == "fail"
    assert "0.9.9" in libraries["value"]
    assert "0.25.3" in libraries["value"]
    assert "pip install" in libraries["fix"]


# --- parts ------------------------------------------------------------------------------


def test_an_instruction_that_does_not_run(tmp_path: Path) -> None:
    """ud2, which no CPU runs, in the place of a real one."""
    script = tmp_path / "instructions.py"
    text = machine.SCRIPT.read_text()
    assert text.count('"c5fdfec0"') == 1
    script.write_text(text.replace('"c5fdfec0"', '"0f0b"'))
    done = child.python(script, "avx2")
    assert done.returncode in (-signal.SIGILL, instructions.CANNOT_TELL)
    assert child.ending(done) in ("died of SIGILL", f"exit code {instructions.CANNOT_TELL}: ")


@pytest.mark.parametrize(
    ("code", "name", "advertised", "status", "words"),
    [
        (0, "avx512", True, "ok", "runs"),
        (-signal.SIGILL, "avx512", False, "note", "not there"),
        (-signal.SIGILL, "avx2", False, "warn", "portable C"),
        (-signal.SIGILL, "amx_int8", True, "warn", "we do not use it"),
        (-signal.SIGILL, "avx512_vnni", True, "warn", "must not be chosen"),
        (3, "avx512", True, "note", "cannot be tried"),
        (124, "avx512", True, "note", "cannot be tried"),
    ],
)
def test_verdicts_on_instructions(
    monkeypatch: pytest.MonkeyPatch, code: int, name: str, advertised: bool, status: str, words: str
) -> None:
    monkeypatch.setattr(child, "python", lambda *_, **__: SimpleNamespace(returncode=code))
    check = machine.instruction_check(name, advertised)
    assert check.status == status
    assert words in check.value


def host_report(**facts: Any) -> list[Check]:
    found = {
        "expected": "llama-cpp-python==0.3.36", "command": "pip install x", "ggml": "0.25.3", "commit": "c",
        "directory": "d", "features": ["avx2", "amx_int8"], "devices": ["CPU (x)"], **facts,
    }  # fmt: skip
    done = subprocess.CompletedProcess([], 0, "".join(json.dumps({k: v}) + "\n" for k, v in found.items()), "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "python", lambda *_, **__: done)
        return list(engine.host(["amx_int8"]))


def test_a_host_with_instructions_that_do_not_run() -> None:
    check = next(c for c in host_report() if c.name == "built for")
    assert check.status == "warn"
    assert "amx_int8 does not run here" in check.value
    assert "CMAKE_ARGS" in check.fix
    assert next(c for c in host_report(features=["avx2"]) if c.name == "built for").status == "ok"


@pytest.mark.parametrize(
    ("code", "out", "expected"),
    [
        (0, '{"amx": true}', ["ok"]),
        (0, '{"amx": null}', []),
        (0, '{"amx": false}', ["warn"]),
        (-signal.SIGSEGV, "", ["warn"]),
    ],
)
def test_verdicts_on_the_hosts_amx(monkeypatch: pytest.MonkeyPatch, code: int, out: str, expected: list[str]) -> None:
    monkeypatch.setattr(child, "python", lambda *_, **__: subprocess.CompletedProcess([], code, out, ""))
    checks = list(engine.tiles("directory"))
    assert [check.status for check in checks] == expected
    assert all("114098" in check.value and "fno-dse" in check.fix for check in checks if check.status == "warn")


def test_a_probe_that_crashes_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [{"version": "0.1.0", "built_for": "0.25.3"}, {"selftest": True}, {"isas": {"generic": True, "avx2": False}}]
    out = "noise\n".join(json.dumps(facts) + "\n" for facts in told)
    done = subprocess.CompletedProcess([], -signal.SIGSEGV, out, "")
    monkeypatch.setattr(child, "python", lambda *_, **__: done)
    checks = {c.name: c for c in engine.engine()}
    assert checks["generation"].status == "fail"
    assert checks["generation"].value == "died of SIGSEGV"
    assert "pip install" in checks["generation"].fix
    assert checks["kernels avx2"].status == "fail"
    assert checks["kernels generic"].status == "ok"
    (check,) = engine.bandwidth()
    assert check.status == "note"


def test_a_probe_that_hangs(tmp_path: Path) -> None:
    script = tmp_path / "hang.py"
    script.write_text("import time\nprint('{\"a\": 1}', flush=True)\ntime.sleep(60)\n")
    done = child.python(script, limit=0.5)
    assert "no answer" in child.ending(done)


@pytest.mark.parametrize(
    ("line", "installed", "status"),
    [
        ("numpy>=1.24", "1.24.0", "ok"),
        ("numpy>=1.24", "1.9", "fail"),
        ("numpy>=1.24", "10.0", "ok"),
        ("x==0.3.36", "0.3.37", "fail"),
        ("x==0.3.36", "0.3.36", "ok"),
        ("x", "1", "ok"),
        ("x>=1", None, "fail"),
    ],
)
def test_requirements(monkeypatch: pytest.MonkeyPatch, line: str, installed: str | None, status: str) -> None:
    monkeypatch.setattr(packages, "version", lambda _: installed)
    check = packages.requirement(line)
    assert check.status == status
    assert (line in check.fix) == (status == "fail")


def test_missing_tools_and_little_of_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child, "output", lambda *_, **__: None)
    assert [c.status for c in machine.tools()] == ["warn", "note", "note"]
    monkeypatch.setattr(machine, "PROC", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:  4000000 kB\nMemAvailable: 1000000 kB\n")
    assert [c.status for c in machine.memory()] == ["warn"]
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    assert [c.status for c in machine.graphics()] == ["warn"]
    monkeypatch.setattr(child, "output", lambda *_, **__: "NVIDIA X, 24564 MiB, 550.1\nNVIDIA Y, 1 MiB, 550.1")
    assert [c.value.split(",")[0] for c in machine.graphics()] == ["NVIDIA X", "NVIDIA Y"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    assert [c.status for c in machine.disk()] == ["warn"]
    (tmp_path / "meminfo").unlink()
    assert [c.status for c in machine.memory()] == ["note"]


def checks() -> list[Check]:
    return [Check("system", "a", "ok", "fine"), Check("cpu", "b", "warn", "word " * 40, "do this")]


def test_what_people_see(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def two(**_: Any) -> Iterator[Check]:
        yield from checks()

    monkeypatch.setattr("turbosparse.doctor.examine", two)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("system\n  ok   a ")
    assert "\n\ncpu\n  warn b " in out
    assert "-> do this" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    assert out.strip().endswith("turbosparse works here, 1 warning.")


def test_the_verdict() -> None:
    broken = [*checks(), Check("engine", "library", "fail", "gone", "pip install turbosparse")]
    assert healthy(checks())
    assert not healthy(broken)
    assert verdict(broken) == "turbosparse does not work here: engine: library."
    show(broken[-1], new_section=True)
