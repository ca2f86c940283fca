"""Who may import whom: _native <- model <- generate <- cli, and nothing heavy for a bare import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.python.sources import PACKAGE, ROOT, python

LEVELS = {
    "errors": 0,
    "cancel": 1,
    "stats": 1,
    "text": 1,
    "threads": 1,
    "disguise": 1,
    "summary": 1,
    "_native": 1,
    "bundled": 1,
    "sampling": 2,
    "grammar": 2,
    "choices": 2,
    "hardware": 0,
    "ops": 3,
    "bandwidth": 2,
    "model_info": 1,
    "options": 1,
    "model": 4,
    "sequences": 5,
    "chat_template": 5,
    "perplexity": 5,
    "state": 5,
    "profile": 5,
    "logprobs": 5,
    "generate": 6,
    "conversation": 7,
    "api": 8,
    "aio": 9,
    "compat": 9,
    "tty": 9,
    "llm_plugin": 10,
    "doctor": 9,
    "bench": 9,
    "server": 10,
    "chat": 11,
    "cli": 20,
}


def imports(path: Path) -> set[str]:
    """Modules of turbosparse that `path` imports when it runs, functions included; not for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["turbosparse", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in runtime_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("turbosparse.")}


def runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += [node, *runtime_nodes(node)]
    return nodes


def sources() -> list[Path]:
    return [
        path
        for name in LEVELS
        for path in (
            [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else sorted((PACKAGE / name).glob("*.py"))
        )
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports(path) & set(LEVELS) - {name}:
        assert LEVELS[other] < LEVELS[name], f"{path} imports {other}"


def test_every_module_has_a_level() -> None:
    modules = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    assert modules - set(LEVELS) <= {"torch", "train", "py.typed"}


def test_only_native_knows_cffi() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "doctor" and path.name in ("instructions.py", "tiles.py"):  # scripts that may die
            continue
        if path.parent.name != "_native" and path.relative_to(PACKAGE).parts[0] not in ("torch", "train"):
            names = {
                alias.name
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            if path.relative_to(PACKAGE).parts[:2] == ("bench", "stock"):
                names -= {"ctypes"}  # the baseline's process, which never loads our library
            assert not names & {"cffi", "ctypes"}, path


def test_convert_never_imports_the_engine() -> None:
    for path in (ROOT / "convert").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "_native" not in text, path


def test_a_bare_import_is_light() -> None:
    modules = python(
        "import sys, turbosparse; print(sorted({'numpy', 'torch', 'cffi', 'llama_cpp'} & set(sys.modules)))"
    )
    assert modules.strip() == "[]"


def test_the_engine_needs_no_torch() -> None:
    modules = python(
        "import sys\nsys.modules['torch'] = None\n"
        "import turbosparse.generate, turbosparse.perplexity, turbosparse.profile, turbosparse.convert; print('fine')"
    )
    assert modules.strip() == "fine"
