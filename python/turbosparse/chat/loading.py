"""One thing at a time with the engine's model: load it, convert a checkpoint and load the result."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from ..server.engine import Engine, LoadOptions
from . import catalogue
from .live import describe
from .store import Store

PARALLEL = 2  # a reply, and what it is compared with; each sequence has its own context
NAMES = {field.name for field in fields(LoadOptions)}


class Loading:
    """What is being done to the engine's model, for pages that poll.

    Attributes:
        task: "" (nothing), "loading" or "converting".
        path: of the model or checkpoint.
        fraction: 0 .. 1 of the task.
        error: of the last task, for JSON; None when it went well.
    """

    def __init__(self, store: Store, engine: Engine, folder: Path, defaults: LoadOptions | None = None) -> None:
        self._store, self._engine, self._folder = store, engine, folder
        self._defaults = defaults or LoadOptions(n_parallel=PARALLEL)
        self._work: asyncio.Task[None] | None = None
        self.task = self.path = ""
        self.fraction = 0.0
        self.error: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "state": self._engine.state,
            "task": self.task,
            "path": self.path,
            "fraction": round(self.fraction, 4),
            "error": self.error,
        }

    def load(self, path: str, options: dict[str, Any] | None = None) -> None:
        """Begin to open a file ("bundled:NAME" for a bundled one), or to convert a checkpoint directory.

        Raises:
            ArgumentError: something is under way, or the options are none.
        """
        chosen = self.options(options or {})
        if self._work is not None and not self._work.done():
            raise ArgumentError(f"{self.path} is being {self.task} already", where="path", found=self.task)
        self.path, self.fraction, self.error = path, 0.0, None
        is_directory = not path.startswith("bundled:") and Path(path).is_dir()
        self.task = "converting" if is_directory else "loading"
        self._work = asyncio.get_running_loop().create_task(self._do(path, chosen, is_directory))

    def options(self, values: dict[str, Any]) -> LoadOptions:
        """The defaults with those of `values` that are not None. Raises ArgumentError for a name that is none."""
        unknown = sorted(values.keys() - NAMES)
        if unknown:
            raise ArgumentError(f"{unknown[0]} is no load option", where=unknown[0], expected=", ".join(sorted(NAMES)))
        return replace(self._defaults, **{name: value for name, value in values.items() if value is not None})

    async def _do(self, path: str, options: LoadOptions, is_directory: bool) -> None:
        try:
            if is_directory:
                path = await self._convert(Path(path))
                self.task, self.path, self.fraction = "loading", path, 0.0
            file = await asyncio.to_thread(catalogue.resolve, path)
            await self._engine.load(file, options, self._advance)
            await asyncio.to_thread(catalogue.remember, self._store, path)
        except Exception as error:
            self.error = describe(error)
        finally:
            self.task = ""

    def _advance(self, fraction: float) -> None:
        self.fraction = fraction

    async def _convert(self, source: Path) -> str:
        """Into the data directory's folder of models; a file made before is taken as it is."""
        from ..convert import convert

        out = self._folder / f"{source.resolve().name}-Q8_0.gguf"
        if not out.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(convert, source, out, outtype="q8_0", progress=self._converted)
        return str(out)

    def _converted(self, _name: str, done: int, total: int) -> None:
        self.fraction = done / max(total, 1)

    async def wait(self) -> None:
        """Until the task under way has ended."""
        if self._work is not None:
            await asyncio.wait({self._work})

    async def close(self) -> None:
        """Give up the task under way."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
