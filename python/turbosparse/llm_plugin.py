"""Plug-in for the `llm` command and library: local models without a server.

    llm -m turbosparse 'Tell me a story' -o temperature 0.7
    llm turbosparse add model.gguf --name mistral
    llm -m mistral 'Hi' && llm -c 'And now?'
    llm embed -m turbosparse -c 'some text'

The model `turbosparse` is the bundled one. Timings and sparsity of a response are kept in llm's
log (`llm logs --json`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import llm
from llm.models import EmbeddingModel
from pydantic import Field

from .convert import ConvertError
from .errors import ArgumentError, FileError, TurboSparseError

if TYPE_CHECKING:
    from .api import Model
    from .generate import Result

BUNDLED = "turbosparse"
OF_MODEL = ("n_ctx", "n_threads", "mode")


class Options(llm.Options):
    """What `-o NAME VALUE` takes; None leaves the model's default."""

    max_tokens: int | None = Field(default=None, description="Tokens to generate at most")
    temperature: float | None = Field(default=None, description="0 takes the likeliest token")
    top_k: int | None = Field(default=None, description="Keep the k likeliest tokens; 0 = off")
    top_p: float | None = Field(default=None, description="Keep the likeliest tokens with this probability; 1 = off")
    min_p: float | None = Field(default=None, description="Keep tokens this likely relative to the best; 0 = off")
    repeat_penalty: float | None = Field(default=None, description="Divides the logits of tokens seen; 1 = off")
    seed: int | None = Field(default=None, description="Repeats a response")
    stop: str | None = Field(default=None, description="Ends the text before this string")
    mode: str | None = Field(default=None, description="How FFNs run: dense, exact or predicted")
    n_ctx: int | None = Field(default=None, description="Tokens of context")
    n_threads: int | None = Field(default=None, description="Threads; default: physical cores")


def _given(prompt: llm.Prompt) -> dict[str, Any]:
    """Arguments of stream_chat: messages, sampling and the schema as a response format."""
    options = {name: value for name, value in prompt.options.model_dump().items() if value is not None}
    sampling = {name: value for name, value in options.items() if name not in OF_MODEL}
    schema = {"type": "json_schema", "json_schema": {"schema": prompt.schema}} if prompt.schema else None
    return {"messages": _messages(prompt), "response_format": schema, **sampling}


def _messages(prompt: llm.Prompt) -> list[dict[str, str]]:
    """The whole conversation, this prompt last; text only, which is all that llm lets through to us."""
    return [
        {"role": message.role, "content": "".join(getattr(part, "text", "") for part in message.parts)}
        for message in prompt.messages
    ]


def _settings(prompt: llm.Prompt) -> dict[str, Any]:
    """Arguments of Model."""
    return {name: value for name in OF_MODEL if (value := getattr(prompt.options, name)) is not None}


def _note(response: Any, result: Result) -> None:
    """Usage and figures of a finished response, for llm's log."""
    response.set_usage(input=len(result.prompt_tokens), output=len(result.tokens))
    shown = result.as_dict()
    response.response_json = {name: shown[name] for name in ("finish_reason", "seed", "mode", "timings", "sparsity")}


class TurboSparse(llm.Model):
    """One file, opened with the first prompt and kept open; None is the bundled model."""

    can_stream = True
    supports_schema = True
    Options = Options  # type: ignore[assignment]

    def __init__(self, model_id: str, path: Path | None) -> None:
        self.model_id = model_id
        self._path = path
        self._opened: tuple[dict[str, Any], Model] | None = None

    def __str__(self) -> str:
        return f"TurboSparse: {self.model_id}"

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Text, piece by piece; `stream` False makes one piece of it."""
        try:
            generation = self._model(_settings(prompt)).stream_chat(reuse=True, **_given(prompt))
            if stream:
                for chunk in generation:
                    yield chunk.text
            else:
                yield generation.result().text
        except TurboSparseError as error:
            raise llm.ModelError(str(error)) from error
        _note(response, generation.result())

    def _model(self, settings: dict[str, Any]) -> Model:
        from .api import Model
        from .model import silence_host

        if self._opened is None or self._opened[0] != settings:
            self.close()
            silence_host()
            self._opened = settings, Model(self._path, **settings)
        return self._opened[1]

    def close(self) -> None:
        """Free the model; the next prompt opens it again."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None


class AsyncTurboSparse(llm.AsyncModel):
    """The same for llm's asyncio interface."""

    can_stream = True
    supports_schema = True
    Options = Options  # type: ignore[assignment]

    def __init__(self, model_id: str, path: Path | None) -> None:
        self.model_id = model_id
        self._path = path

    def __str__(self) -> str:
        return f"TurboSparse: {self.model_id}"

    async def execute(
        self, prompt: llm.Prompt, stream: bool, response: Any, conversation: Any
    ) -> AsyncGenerator[str, None]:
        """Text, piece by piece. The model is opened for each response: an event loop may end with it."""
        from .aio import AsyncModel

        try:
            async with AsyncModel(self._path, **_settings(prompt)) as model:
                generation = model.stream_chat(**_given(prompt))
                if stream:
                    async for chunk in generation:
                        yield chunk.text
                else:
                    yield (await generation.result()).text
                _note(response, await generation.result())
        except TurboSparseError as error:
            raise llm.ModelError(str(error)) from error


class TurboSparseEmbedding(EmbeddingModel):
    """Mean hidden states, of length 1; see Model.embed."""

    def __init__(self, model_id: str, path: Path | None) -> None:
        self.model_id = model_id
        self._path = path

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """A vector per text."""
        from .api import Model
        from .model import silence_host

        silence_host()
        with Model(self._path) as model:
            for item in items:
                yield model.embed(item if isinstance(item, str) else item.decode("utf-8", "replace")).tolist()


# --- files that were added ------------------------------------------------------------------


def _register_file() -> Path:
    directory = Path(llm.user_dir())  # type: ignore[no-untyped-call]
    return directory / "turbosparse.json"


def added() -> dict[str, Path]:
    """Name -> file, as `llm turbosparse add` has noted them. Raises FileError for a broken list."""
    path = _register_file()
    if not path.is_file():
        return {}
    try:
        return {str(name): Path(file) for name, file in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FileError(f"{path} cannot be read: {error}; mend or delete it", where=str(path)) from error


def _write(models: Mapping[str, Path]) -> None:
    text = json.dumps({name: str(file) for name, file in models.items()}, indent=1)
    _register_file().write_text(text + "\n", encoding="utf-8")


def _all() -> dict[str, Path | None]:
    return {BUNDLED: None, **added()}


@llm.hookimpl
def register_models(register: Any) -> None:
    """The bundled model and the added files."""
    for name, path in _all().items():
        register(TurboSparse(name, path), AsyncTurboSparse(name, path))


@llm.hookimpl
def register_embedding_models(register: Any) -> None:
    """The same, for `llm embed`."""
    for name, path in _all().items():
        register(TurboSparseEmbedding(name, path))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """`llm turbosparse add|list|remove`."""

    @cli.group(name=BUNDLED)
    def group() -> None:
        """Models that run inside this process, with TurboSparse"""

    @group.command()
    @click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option("--name", help="Name for llm -m; default: the file's")
    def add(path: Path, name: str | None) -> None:
        """Let llm know the TurboSparse GGUF file PATH."""
        try:
            click.echo(f"added {add_model(path, name)}")
        except (TurboSparseError, ConvertError) as error:
            raise click.ClickException(str(error)) from error

    @group.command(name="list")
    def list_() -> None:
        """Show the models."""
        for name, path in _all().items():
            click.echo(f"{name}: {path or 'the bundled model'}")

    @group.command()
    @click.argument("name")
    def remove(name: str) -> None:
        """Forget a model; its file stays."""
        models = added()
        if name not in models:
            raise click.ClickException(f"there is no added model {name!r}; there is {', '.join(models) or 'none'}")
        del models[name]
        _write(models)


def add_model(path: Path, name: str | None = None) -> str:
    """Note the file `path` for llm; returns its name. Raises ArgumentError, and what reading the file raises."""
    from .convert.inspect import inspect_file

    chosen = name or path.stem
    if chosen == BUNDLED:
        raise ArgumentError(f"{BUNDLED} is the bundled model; give another --name", where="--name", found=chosen)
    inspect_file(path)  # refuses what would not load
    _write({**added(), chosen: path.resolve()})
    return chosen
