"""Reading the JSON of a request: every member is checked, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from .problem import ProblemError, invalid

T = TypeVar("T")

MAX_DEPTH = 64


async def read_json(request: HttpRequest) -> dict[str, Any]:
    """The body, a JSON object. Raises ProblemError for anything else."""
    return parse_object(await request.body())


def parse_object(body: bytes) -> dict[str, Any]:
    """`body` as a JSON object of bounded depth. Raises ProblemError."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
        _check_depth(value, MAX_DEPTH)
    except RecursionError:
        raise invalid(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise RecursionError
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for item in value:
        _check_depth(item, left - 1)


class Fields:
    """Typed access to the members of an object. A null counts as absent.

    Args:
        path: of the object in the request, for messages ("stream_options.").
    """

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path
        self._asked: set[str] = set()

    def _take(self, names: tuple[str, ...], kind: str, convert: Callable[[Any], T | None], default: T) -> T:
        """The first of `names` that is given, converted; `convert` returns None for a wrong value."""
        self._asked.update(names)
        for name in names:
            value = self._values.get(name)
            if value is not None:
                found = convert(value)
                if found is None:
                    raise self.wrong(name, kind, value)
                return found
        return default

    def wrong(self, name: str, expected: str, value: Any) -> ProblemError:
        """The refusal that names a member."""
        found = json.dumps(value, ensure_ascii=True)
        found = found if len(found) <= 60 else found[:57] + "..."
        return invalid(f"{self._path}{name} must be {expected}, not {found}", f"{self._path}{name}")

    def raw(self, name: str) -> Any:
        """The member as it is, None when absent."""
        self._asked.add(name)
        return self._values.get(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        return self._take((name,), "true or false", lambda v: v if isinstance(v, bool) else None, default)

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        return self._take((name,), "a string", lambda v: v if isinstance(v, str) else None, default)

    def number(self, *names: str, default: float, low: float = float("-inf"), high: float = float("inf")) -> float:
        """A finite number in [low, high]."""

        def convert(value: Any) -> float | None:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return None
            return float(value) if abs(value) < 1e300 and isfinite(value) and low <= value <= high else None

        return self._take(names, f"a number{_range(low, high)}", convert, default)

    def integer(self, *names: str, default: int, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        """An integer in [low, high]; 3.0 counts as one."""

        def convert(value: Any) -> int | None:
            whole = isinstance(value, float) and value.is_integer()
            if isinstance(value, bool) or not (isinstance(value, int) or whole):
                return None
            return int(value) if low <= value <= high else None

        return self._take(names, f"an integer{_range(low, high)}", convert, default)

    def choice(self, name: str, options: tuple[str, ...]) -> str | None:
        """One of `options`, None when absent."""
        found = self._take((name,), "a string", lambda v: v if isinstance(v, str) else None, "")
        if found and found not in options:
            raise self.wrong(name, "one of " + ", ".join(options), found)
        return found or None

    def strings(self, name: str, most: int) -> tuple[str, ...]:
        """A string or a list of at most `most`; none of them empty."""

        def convert(value: Any) -> tuple[str, ...] | None:
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, list) or len(items) > most:
                return None
            return tuple(items) if all(isinstance(item, str) and item for item in items) else None

        return self._take((name,), f"a string or up to {most} strings, none empty", convert, ())

    def object(self, name: str) -> Fields | None:
        """A nested object."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object", value)
        return Fields(value, f"{self._path}{name}.")

    def given(self) -> dict[str, Any]:
        """All members."""
        return dict(self._values)

    def refuse(self, name: str, unless: tuple[Any, ...], reason: str) -> None:
        """400 when the member is there with a value other than those of `unless`."""
        value = self.raw(name)
        if value is not None and value not in unless:
            raise invalid(f"{self._path}{name} is not supported: {reason}", f"{self._path}{name}")

    def ignored(self) -> list[str]:
        """Members that nobody asked for."""
        return sorted(set(self._values) - self._asked)


def _range(low: float, high: float) -> str:
    bounded = [low > -(2**31), high < 2**31 - 1]
    if all(bounded):
        return f" from {low:g} to {high:g}"
    return f" of at least {low:g}" if bounded[0] else f" of at most {high:g}" if bounded[1] else ""
