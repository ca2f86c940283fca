"""The keyword arguments that editors are told are those that there are."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import turbosparse.model
from turbosparse import Model, SamplingParams
from turbosparse.options import ChatOptions, ModelOptions, SamplingOptions

USE = """
from turbosparse import AsyncModel, Model, SamplingParams

with Model("m.gguf", mode="exact", n_ctx=512) as model:
    text: str = model.generate("a", SamplingParams(top_k=1), max_tokens=3).text
    for chunk in model.stream("a", temperature=0.5, reuse=True):
        part: str = chunk.text
    size: int = model.embed(["a"]).shape[0]
    talk = model.conversation(system="s")
    answer: str = talk.ask("a", tools=[], seed=3).text

async def main() -> None:
    async with AsyncModel(n_ctx=512) as twin:
        found: str = (await twin.chat([{"role": "user", "content": "a"}], max_tokens=3)).text
        async for chunk in twin.stream("a", stop=["x"]):
            part: str = chunk.text
"""
MISUSE = ["Model(nctx=1)", "Model().generate('a', temprature=1)", "Model().chat([], stop=3)", "AsyncModel(mode=1)"]


def test_names() -> None:
    of_model = list(inspect.signature(turbosparse.model.Model.__init__).parameters)
    assert ["self", "path", *ModelOptions.__annotations__] == of_model
    assert list(SamplingOptions.__annotations__) == [field.name for field in fields(SamplingParams)]
    of_chat = inspect.signature(Model.stream_chat).parameters
    named = set(of_chat) - {"self", "messages", "params", "cancel", "overrides"}
    assert set(ChatOptions.__annotations__) == named | set(SamplingOptions.__annotations__)


def test_a_type_checker_agrees(tmp_path: Path) -> None:
    """py.typed is there, use passes mypy --strict, and each misuse is noticed."""
    misuse = "".join(f"{line}  # misuse\n" for line in MISUSE)
    (tmp_path / "use.py").write_text(USE + misuse)
    root = Path(turbosparse.__file__).parent.parent
    environment = {} if root.name == "site-packages" else {"MYPYPATH": str(root)}  # the finder of editable installs
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "use.py"]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    lines = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line]
    first = USE.count("\n") + 1
    assert sorted(set(lines)) == list(range(first, first + len(MISUSE))), done.stdout + done.stderr
