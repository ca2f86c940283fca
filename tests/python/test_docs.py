"""The examples of docs/python-api.md run, with a bundled model and nothing else; command lines in all pages exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from turbosparse.cli.main import _app

from tests.python.sources import ROOT

PAGE = ROOT / "docs" / "python-api.md"


def examples(page: Path) -> list[str]:
    """Python blocks, each after as many empty lines as precede it: tracebacks then name the page's lines."""
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
    return ["\n" * text[: block.start(1)].count("\n") + block[1] for block in blocks]


def test_there_are_examples() -> None:
    assert len(examples(PAGE)) >= 12


def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """In one interpreter, as a reader would type it, with one thread (see the house rules on busy machines)."""
    (tmp_path / "page").mkdir()
    scripts = []
    for i, example in enumerate(examples(PAGE)):
        scripts.append(tmp_path / "page" / f"{i:02}.py")
        scripts[-1].write_text(example, encoding="utf-8")
    code = (
        "import sys, turbosparse.bundled, turbosparse.model\n"
        "turbosparse.model.default_threads = lambda: 1\n"
        "turbosparse.bundled.PREFERRED = ('turbosparse-micro',)\n"  # the quickest
        "names = {'__name__': '__main__'}\n"
        "for path in sys.argv[1:]:\n"
        f"    exec(compile(open(path).read(), {str(PAGE)!r}, 'exec'), names)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, scripts)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for expected in ("cancelled", "stopped", "did you mean temperature?", "tokens were known already"):
        assert expected in done.stdout
    assert (tmp_path / "talk.json").is_file()


@pytest.mark.parametrize("name", ["Model", "AsyncModel", "SamplingParams", "CancelToken", "Conversation"])
def test_public_names_are_documented(name: str) -> None:
    import turbosparse

    assert name in PAGE.read_text(encoding="utf-8")
    assert getattr(turbosparse, name).__doc__


def test_every_error_is_in_the_table() -> None:
    import turbosparse

    page = PAGE.read_text(encoding="utf-8")
    for name in turbosparse.__all__:
        if name.endswith("Error"):
            assert f"`{name}`" in page, name


# --- the command line in all pages ----------------------------------------------------------


def pages() -> list[Path]:
    """Markdown files of the project itself."""
    patterns = ("*.md", "docs/*.md", "models/*.md", "models/*/*.md", "bench/results/*.md")
    return sorted(page for pattern in patterns for page in ROOT.glob(pattern))


def code(page: Path) -> list[str]:
    """Lines of the page's code, joined where a backslash ends them."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    blocks = [block for kind, block in fenced if kind in ("", "sh")] + re.findall(r"`([^`\n]+)`", text)
    return [line.strip() for block in blocks for line in block.splitlines()]


def commands(page: Path) -> list[list[str]]:
    """Words of every `turbosparse ...` in the page's code, comments left out."""
    found = [shlex.split(line, comments=True) for line in code(page) if re.match(r"turbosparse \w", line)]
    return [words[1 : words.index("|")] if "|" in words else words[1:] for words in found]


def test_there_are_command_lines() -> None:
    assert sum(len(commands(page)) for page in pages()) > 30


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_has_options_that_exist(page: Path) -> None:
    for name, *words in commands(page):
        if name in ("add", "list", "remove"):  # of `llm turbosparse`
            continue
        command = typer.main.get_command(_app([name])).commands[name]  # type: ignore[attr-defined]
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        known |= {"-h", "--help"}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert given <= known, f"turbosparse {name} has no {', '.join(given - known)}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_and_target_exists(page: Path) -> None:
    lines = "\n".join(code(page))
    modules = {name for name in re.findall(r"python3? -m ([\w.]+)", lines) if name not in ("pip", "pytest")}
    where = [base / name.replace(".", "/") for name in modules for base in (ROOT, ROOT / "python")]
    found = {path for path in where if path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()}
    assert len(found) == len(modules), modules
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"^make ([a-z][\w-]*)", lines, re.M)) <= set(targets)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
