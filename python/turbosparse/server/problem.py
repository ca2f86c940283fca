"""Errors on the wire: OpenAI's error object with llama-server's types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from ..errors import (
    ArgumentError,
    BackendError,
    CancelledError,
    ContextOverflowError,
    FileError,
    GrammarError,
    ModelFormatError,
    OutOfMemoryError,
    TurboSparseError,
    UnsupportedModelError,
)
from .engine import NotReadyError, QueueFullError

# what is raised -> status, type
_KINDS: tuple[tuple[type[BaseException], int, str], ...] = (
    (QueueFullError, 503, "unavailable_error"),
    (NotReadyError, 503, "unavailable_error"),
    (ContextOverflowError, 400, "exceed_context_size_error"),
    (GrammarError, 400, "invalid_request_error"),
    (ArgumentError, 400, "invalid_request_error"),
    (UnsupportedModelError, 501, "not_supported_error"),
    (ModelFormatError, 400, "invalid_request_error"),
    (FileError, 400, "invalid_request_error"),
    (OutOfMemoryError, 503, "unavailable_error"),
    (CancelledError, 503, "unavailable_error"),
    (BackendError, 500, "server_error"),
    (TurboSparseError, 500, "server_error"),
)


@dataclass(frozen=True)
class Problem:
    """One refusal.

    Attributes:
        status: of HTTP.
        kind: "invalid_request_error" and its like.
        message: one sentence for people.
        param: the header or field at fault, or "".
        code: a word for programs; "" = the status.
        extra: more members of the error object.
        retry_after: seconds, 0 = not said.
    """

    status: int
    kind: str
    message: str
    param: str = ""
    code: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    retry_after: int = 0

    def body(self) -> dict[str, Any]:
        """The error object."""
        error = {
            "code": self.code or self.status,
            "message": self.message,
            "type": self.kind,
            "param": self.param or None,
            **self.extra,
        }
        return {"error": error}

    def response(self, close: bool = False) -> JSONResponse:
        """The answer.

        Args:
            close: end the connection afterwards, because the rest of the body is not read.
        """
        headers = {"retry-after": str(self.retry_after)} if self.retry_after else {}
        if close:
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


class ProblemError(Exception):
    """Raised by routes to answer with a Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def invalid(message: str, param: str = "") -> ProblemError:
    """A request that says something impossible: 400."""
    return ProblemError(Problem(400, "invalid_request_error", message, param))


def from_exception(error: BaseException) -> Problem:
    """What to answer when `error` ended a request; says nothing about the inside of unforeseen ones."""
    if isinstance(error, ProblemError):
        return error.problem
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            return Problem(
                status,
                name,
                str(error),
                getattr(error, "where", ""),
                extra=_numbers(error),
                retry_after=getattr(error, "retry_after", 0) or (1 if status == 503 else 0),
            )
    return Problem(500, "server_error", "the server failed; its log says why")


def _numbers(error: BaseException) -> dict[str, Any]:
    if isinstance(error, ContextOverflowError):
        return {"n_prompt_tokens": error.needed, "n_ctx": error.available}
    return {}
