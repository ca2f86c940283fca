"""Directions of import, as design.md's "Rooms" draw them: Python read by `ast`, C++ by its #include lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON, CONVERT, SRC = ROOT / "python" / "turbosparse", ROOT / "convert", ROOT / "ggml_sparse" / "src"


def modules(root: Path, package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join((package, *(p for p in parts if p != "__init__")))] = path
    return found


ALL = modules(PYTHON, "turbosparse") | modules(CONVERT, "turbosparse.convert")


def imports(name: str, path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Absolute names of everything that a module imports, functions' imports and TYPE_CHECKING included."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_below(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def offenders(who: list[str], *forbidden: str, top_level_only: bool = False) -> list[str]:
    return [
        f"{name} imports {target}"
        for name in who
        for target in imports(name, ALL[name], top_level_only)
        if is_below(target, *forbidden)
    ]


def test_there_is_something_to_look_at() -> None:
    assert len(ALL) > 30
    assert "turbosparse.model" in ALL
    assert "turbosparse.convert.export" in ALL
    assert "turbosparse._native" in ALL
    assert "turbosparse._native" in set(imports("turbosparse.model", ALL["turbosparse.model"]))


def test_convert_never_imports_the_engine() -> None:
    """It meets the loader in the format contract only; its K-quantiser loads libggml-base by itself."""
    engine = ("_native", "model", "generate", "sampling", "ops", "stats", "torch", "train")
    who = [n for n in ALL if is_below(n, "turbosparse.convert")]
    assert offenders(who, *(f"turbosparse.{m}" for m in engine), "llama_cpp", "torch", "transformers") == []


def test_who_touches_c() -> None:
    """`_native` is the only package that knows C; what uses its handles is named here."""
    may = {f"turbosparse.{m}" for m in ("choices", "model", "sequences", "sampling", "ops", "bandwidth", "state")}
    may |= {"turbosparse", "turbosparse.doctor.probe"}  # a script of its own
    who = [n for n in ALL if not is_below(n, "turbosparse._native") and n not in may]
    assert offenders(who, "turbosparse._native") == []
    assert offenders([n for n in ALL if not is_below(n, "turbosparse._native")], "cffi") == []
    ctypes_users = {line.split()[0] for line in offenders(list(ALL), "ctypes")}
    may_ctypes = (
        "turbosparse._native",
        "turbosparse.convert",
        "turbosparse.bench.stock",  # the baseline's process
        "turbosparse.doctor.instructions",  # scripts for processes that may die
        "turbosparse.doctor.tiles",
    )
    assert all(is_below(n, *may_ctypes) for n in ctypes_users), ctypes_users


@pytest.mark.parametrize(
    ("module", "above"),
    [
        ("turbosparse._native", ("model", "generate", "sampling", "stats", "ops", "cli", "convert", "torch", "train")),
        ("turbosparse.model", ("generate", "cli", "perplexity", "convert", "torch", "train")),
        ("turbosparse.generate", ("cli", "perplexity", "convert", "torch", "train")),
        ("turbosparse.ops", ("model", "generate", "cli", "convert", "torch", "train")),
        ("turbosparse.errors", ("_native", "model", "generate", "cli", "convert", "torch", "train")),
        ("turbosparse.torch", ("_native", "model", "generate", "cli", "train")),
    ],
)
def test_nobody_imports_upwards(module: str, above: tuple[str, ...]) -> None:
    who = [n for n in ALL if is_below(n, module)]
    assert who
    assert offenders(who, *(f"turbosparse.{name}" for name in above)) == []


def test_core_needs_no_torch_and_nobody_imports_tests_or_bench() -> None:
    core = [n for n in ALL if not is_below(n, "turbosparse.torch", "turbosparse.train")]
    assert offenders(core, "torch", "transformers", top_level_only=True) == []
    assert offenders(list(ALL), "tests", "bench") == []


def test_command_line_imports_late() -> None:
    """`-h` is fast: modules of cli/ import nothing heavy at the top."""
    who = [n for n in ALL if is_below(n, "turbosparse.cli")]
    heavy = (
        "numpy",
        "gguf",
        "safetensors",
        "jinja2",
        "turbosparse._native",
        "turbosparse.model",
        "turbosparse.generate",
    )
    assert offenders(who, *heavy, "turbosparse.convert", "torch", top_level_only=True) == []


# --- C++ -------------------------------------------------------------------------


def includes() -> dict[str, set[str]]:
    """File below src/ -> project headers that it includes, as paths below src/."""
    found: dict[str, set[str]] = {}
    for path in sorted(p for p in SRC.rglob("*") if p.suffix in {".h", ".cpp", ".def", ".inc"}):
        lines = re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.M)
        here = path.parent.relative_to(SRC)
        names = {str(here / n) if (path.parent / n).is_file() else n for n in lines}
        found[str(path.relative_to(SRC))] = {str(Path(n)) for n in names}
    return found


def reach(name: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that `name` includes, directly or not."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        for header in graph.get(todo.pop(), set()) - seen:
            seen.add(header)
            todo.append(header)
    return seen


def stems(names: set[str]) -> set[str]:
    return {Path(n).stem for n in names}


def test_kernels_know_nothing_above_them() -> None:
    graph = includes()
    kernels = [n for n in graph if n.startswith("cpu/")]
    assert kernels
    above = {
        "ffn",
        "store",
        "neurons",
        "backend",
        "view",
        "model",
        "context",
        "contract",
        "gguf-file",
        "session",
        "block",
    }
    for name in kernels:
        assert not stems(reach(name, graph)) & above, name


def test_ffn_knows_kernels_and_store_only() -> None:
    graph = includes()
    above = {"backend", "view", "model", "context", "session", "sampler", "block", "buffer", "library", "contract"}
    for stem in ("ffn", "select", "rows", "types", "reference"):
        for name in (f"{stem}.h", f"{stem}.cpp"):
            if name in graph:
                assert not stems(reach(name, graph)) & above, name


def test_backend_does_not_know_libllama_or_who_uses_it() -> None:
    graph = includes()
    above = {"view", "model", "context", "sampler", "vocab", "library", "llama"}
    for stem in ("backend", "block", "buffer"):
        for name in (f"{stem}.h", f"{stem}.cpp"):
            if name in graph:
                assert not stems(reach(name, graph)) & above, name


def test_file_parser_knows_errors_only() -> None:
    graph = includes()
    assert {n for n in reach("gguf-file.h", graph) | reach("gguf-file.cpp", graph) if n in graph} <= {
        "gguf-file.h",
        "mapped-file.h",
        "error.h",
    }


def test_public_header_stands_alone() -> None:
    text = (ROOT / "ggml_sparse" / "include" / "ggml-sparse.h").read_text(encoding="utf-8")
    assert set(re.findall(r"#\s*include\s+[<\"]([^>\"]+)", text)) <= {"stdbool.h", "stddef.h", "stdint.h"}


def test_no_private_ggml_header_is_included() -> None:
    """Interface structs are declared in abi.h; what the host does not install cannot be needed."""
    private = {"ggml-backend-impl.h", "ggml-impl.h", "ggml-common.h", "ggml-quants.h", "llama-impl.h", "llama-model.h"}
    graph = includes()
    assert "abi.h" in graph
    for name, headers in graph.items():
        assert not {Path(h).name for h in headers} & private, name
