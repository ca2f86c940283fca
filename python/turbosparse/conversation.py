"""A chat that remembers what was said, and can be kept in a file."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError, ModelFormatError
from .generate import Chunk, Generation, Result

if TYPE_CHECKING:
    import os

    from typing_extensions import Unpack

    from .api import Model
    from .cancel import CancelToken
    from .options import ChatOptions
    from .sampling import SamplingParams

ROLES = ("system", "user", "assistant", "tool")


class Conversation:
    """Messages, and answers to them; the model evaluates only what is new.

        with Model() as model:
            talk = model.conversation(system="Be brief.")
            print(talk.ask("Hello!", max_tokens=64).text)
            for chunk in talk.stream("And now?"):
                print(chunk.text, end="", flush=True)

    An answer that was stopped halfway is kept as far as it came; a question that could not be
    asked (it does not fit the context, say) is not kept.

    Attributes:
        messages: dicts with "role" and "content", to look at and to change.
        last: Result of the last answer, None before.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        params: SamplingParams | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.model = model
        self.params = params
        self.messages: list[dict[str, Any]] = [dict(message) for message in messages]
        self.last: Result | None = None
        if system is not None:
            self.system = system

    def __repr__(self) -> str:
        return f"<Conversation of {len(self.messages)} messages with {self.model.path.name}>"

    @property
    def system(self) -> str | None:
        """The system message; may be set, None takes it away."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        if self.system is not None:
            del self.messages[0]
        if text is not None:
            self.messages.insert(0, {"role": "system", "content": text})

    def ask(self, text: str, **options: Unpack[ChatOptions]) -> Result:
        """The whole answer to `text`. Options as for Model.chat."""
        for _ in self.stream(text, **options):
            pass
        assert self.last is not None
        return self.last

    def stream(
        self, text: str, *, cancel: CancelToken | None = None, **options: Unpack[ChatOptions]
    ) -> Iterator[Chunk]:
        """Chunks of the answer to `text`; `last` is its Result afterwards. Options as for Model.chat."""
        question = {"role": "user", "content": text}
        options.setdefault("reuse", True)
        generation = self.model.stream_chat([*self.messages, question], self.params, cancel=cancel, **options)
        return self._answer(question, generation)

    def _answer(self, question: dict[str, Any], generation: Generation) -> Generator[Chunk, None, None]:
        asked = False
        try:
            for chunk in generation:
                asked = True
                yield chunk
        finally:  # also when the caller leaves early, or Ctrl-C comes
            generation.close()
            if asked:
                self.last = generation.result()
                self.messages += [question, {"role": "assistant", "content": self.last.text}]

    def undo(self) -> str | None:
        """Take the last question and its answer back; returns the question, None when there is none."""
        for i in range(len(self.messages) - 1, -1, -1):
            if self.messages[i]["role"] == "user":
                text = str(self.messages[i]["content"])
                del self.messages[i:]
                return text
        return None

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [] if self.system is None else self.messages[:1]
        self.last = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the messages as JSON: {"messages": [{"role": ..., "content": ...}, ...]}. Raises FileError."""
        document = {"messages": self.messages, "model": self.model.path.name}
        try:
            Path(path).write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise FileError(f"{path} cannot be written: {error.strerror}", where=str(path)) from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on with the messages of a file that save wrote. Raises FileError, ModelFormatError."""
        self.messages = _read(Path(path))
        self.last = None


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise _no_chat(path, str(error)) from error
    messages = document.get("messages") if isinstance(document, dict) else document
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise _no_chat(path, "no list of messages with role and content")
    return messages


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)


def _no_chat(path: Path, found: str) -> ModelFormatError:
    return ModelFormatError(
        f"{path} is no saved chat: {found}", where=str(path), expected='{"messages": [...]}', found=found
    )
