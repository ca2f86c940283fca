"""llama.cpp and our engine, asked in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import child
from .check import Check
from .packages import version

PROBE, TILES = (Path(__file__).with_name(f"{name}.py") for name in ("probe", "tiles"))
REBUILD = "pip install --force-reinstall --no-deps turbosparse (in a checkout: make setup)"
SLOW = 5e9  # bytes per second; a 7B model in Q4_0 then gives about one token per second


def host(broken: Sequence[str]) -> Iterator[Check]:
    """The llama.cpp that we plug into.

    Args:
        broken: instructions that the CPU advertises and that do not run.
    """
    done = child.python(PROBE, "host")
    facts = child.facts(done)
    expected, command = facts.get("expected", "llama-cpp-python"), facts.get("command", "")
    yield _package(str(expected), str(command))
    problem = facts.get("error") or child.ending(done)
    if problem:
        yield Check("llama.cpp", "libraries", "fail", str(problem), command)
    if "ggml" not in facts:
        return
    yield Check("llama.cpp", "libraries", "ok", f"ggml {facts['ggml']} ({facts['commit']}) in {facts['directory']}")
    yield _built_for(facts["features"], broken)
    yield Check("llama.cpp", "devices", "ok", ", ".join(facts["devices"]) or "none")
    if "amx_int8" in facts["features"]:
        yield from tiles(str(facts["directory"]))


def _package(expected: str, command: str) -> Check:
    """Is the pinned distribution there?"""
    found, wanted = version("llama-cpp-python"), expected.partition("==")[2]
    if found == wanted:
        return Check("llama.cpp", "llama-cpp-python", "ok", wanted)
    shown = "not installed" if found is None else f"{found}, but {wanted} is needed"
    return Check("llama.cpp", "llama-cpp-python", "fail", shown, command)


def _built_for(features: Sequence[str], broken: Sequence[str]) -> Check:
    """Was it compiled for this CPU? A feature that the CPU lacks is refused when it is loaded."""
    shown = " ".join(features) or "portable code"
    crashing = [name for name in features if name in broken]
    if not crashing:
        return Check("llama.cpp", "built for", "ok", shown)
    return Check(
        "llama.cpp", "built for", "warn",
        f"{shown}; {', '.join(crashing)} does not run here: turbosparse leaves it alone, but llama_cpp.Llama may crash "
        "while it reads a prompt",
        f"CMAKE_ARGS='{' '.join(map(_without, crashing))}' {reinstall()}",
    )  # fmt: skip


def _without(feature: str) -> str:
    """llama.cpp's build option that leaves a feature out; GGML_NATIVE would put it back."""
    return "-DGGML_NATIVE=OFF" if feature.startswith("amx") else f"-DGGML_{feature.upper()}=OFF"


def tiles(directory: str) -> Iterator[Check]:
    """Does stock llama.cpp survive its own AMX products? We do not use them."""
    done = child.python(TILES, directory)
    right = child.facts(done).get("amx")
    if right:
        yield Check("llama.cpp", "amx products", "ok", "right")
    elif done.returncode != 0 or right is False:
        how = child.ending(done) or "gives wrong numbers"
        yield Check(
            "llama.cpp", "amx products", "warn",
            f"{how}: llama_cpp.Llama will, too, when it reads a prompt with quantised weights; turbosparse does not "
            "use them. Known cause: GCC before 11.5, 12.4, 13.3 drops most of the tile configuration (GCC bug 114098)",
            f"CMAKE_ARGS=\"-DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse'\" {reinstall()}",
        )  # fmt: skip


def reinstall() -> str:
    """The command that compiles the host again."""
    pin = f"llama-cpp-python=={version('llama-cpp-python')}"
    return f"pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python {pin}"


def engine() -> Iterator[Check]:
    """libggml-sparse: there, sound, and able to write."""
    done = child.python(PROBE, "engine")
    facts = child.facts(done)
    problem = facts.get("error") or child.ending(done)
    if "version" in facts:
        yield Check("engine", "library", "ok", f"libggml-sparse {facts['version']} for ggml {facts['built_for']}")
    if facts.get("selftest"):
        yield Check("engine", "self-test", "ok", "one layer equals the scalar reference")
    yield from _kernels(facts.get("isas", {}))
    if "tokens" in facts:
        yield Check(
            "engine", "generation", "ok", f"{facts['model']} wrote {facts['tokens']} tokens, mode {facts['mode']}"
        )
    if problem:
        step = next((name for name, key in STEPS.items() if key not in facts), "end")
        yield Check("engine", step, "fail", str(problem), _mend(str(problem)))


STEPS = {"library": "version", "self-test": "selftest", "kernels": "isas", "generation": "tokens"}


def _mend(problem: str) -> str:
    """Errors of the host say themselves what to run."""
    return "" if "Run: " in problem or "pip install" in problem else REBUILD


def _kernels(isas: dict[str, Any]) -> Iterator[Check]:
    for isa, right in isas.items():
        found = "agrees with the portable kernels" if right else "gives other numbers than the portable kernels"
        yield Check("engine", f"kernels {isa}", "ok" if right else "fail", found, "" if right else "please report this")


def bandwidth() -> Iterator[Check]:
    """What bounds the speed of one token at a time."""
    facts = child.facts(child.python(PROBE, "speed"))
    if "bandwidth" not in facts:
        yield Check("memory", "bandwidth", "note", "not measured: the engine does not run")
        return
    rate = float(facts["bandwidth"])
    found = f"{rate / 1e9:.1f} GB/s read by {facts['threads']} threads (measured, short)"
    yield Check(
        "memory", "bandwidth", "warn" if rate < SLOW else "ok", found,
        "close other programs; bandwidth bounds tokens per second" if rate < SLOW else "",
    )  # fmt: skip
