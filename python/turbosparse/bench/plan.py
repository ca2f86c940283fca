"""What a benchmark runs: tests, settings, and the short turns that a test is cut into."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ArgumentError

TURN = 8  # generated tokens per turn: short against the drift of a shared machine, long against a switch
WARM_PROMPT = 32  # tokens of the warm-up of a prompt test


@dataclass(frozen=True)
class Settings:
    """How an engine runs. Types and flash attention as in llama-bench."""

    n_threads: int
    n_batch: int = 2048
    n_ubatch: int = 512
    flash_attn: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"


@dataclass(frozen=True)
class Work:
    """One timed turn of every sequence, from position `at`: a prompt, then single tokens.

    Attributes:
        warm: first generate one token that is not timed, so that a turn does not pay for the switch.
    """

    at: int
    n_prompt: int = 0
    n_gen: int = 0
    warm: bool = False

    @property
    def n_tokens(self) -> int:
        """Timed tokens per sequence."""
        return self.n_prompt + self.n_gen


@dataclass(frozen=True)
class Test:
    """One line of the table.

    Attributes:
        n_seq: sequences decoded side by side, as in llama-batched-bench.
        load: time from nothing to the first token instead; the other fields are a prompt of one token.
    """

    __test__ = False  # not for pytest

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0
    n_seq: int = 1
    load: bool = False

    @property
    def label(self) -> str:
        """llama-bench's name: pp512, tg128 @ d4096, pp64+tg32; "x4" for four sequences."""
        if self.load:
            return "load"
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        depth = f" @ d{self.n_depth}" if self.n_depth else ""
        return "+".join(parts) + (f" x{self.n_seq}" if self.n_seq > 1 else "") + depth

    @property
    def n_tokens(self) -> int:
        """Timed tokens of one repetition, over all sequences."""
        return (self.n_prompt + self.n_gen) * self.n_seq

    @property
    def n_ctx(self) -> int:
        """Tokens that each sequence needs room for."""
        return self.n_depth + self.n_prompt + self.n_gen + 1

    @property
    def one_by_one(self) -> bool:
        """Whether no evaluation has more than one token: every weight is read once per token."""
        return self.n_prompt == 0 and self.n_seq == 1 and not self.load

    def turns(self) -> list[Work]:
        """One repetition, cut so that contenders can take turns."""
        if self.n_prompt:
            return [Work(self.n_depth, self.n_prompt, self.n_gen)]
        starts = range(0, self.n_gen, TURN)
        return [Work(self.n_depth + i, 0, min(TURN, self.n_gen - i), warm=True) for i in starts]

    def warm_up(self) -> Work:
        """A short beginning of the test, not timed."""
        return Work(self.n_depth, min(self.n_prompt, WARM_PROMPT), min(self.n_gen, 2))


def tokens(n: int, n_vocab: int, at: int, sequence: int = 0) -> list[int]:
    """n pseudo-random ids for positions from `at`, the same for every engine."""
    return [
        random.Random(f"{sequence}/{position}").randrange(min(3, n_vocab - 1), n_vocab)
        for position in range(at, at + n)
    ]


def numbers(text: str, where: str) -> list[int]:
    """llama-bench's lists: "1,2", "first-last", "first-last+step", "first-last*factor".

    Raises:
        ArgumentError: names the option `where`.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?", part.strip())
        if match is None:
            raise _not_numbers(text, where)
        first, last, operator, step = match.groups()
        found += _range(int(first), int(last or first), operator or "+", int(step or 1), text, where)
    return found


def _range(first: int, last: int, operator: str, step: int, text: str, where: str) -> Iterator[int]:
    value = first
    while value <= last:
        yield value
        following = value + step if operator == "+" else value * step
        if following <= value:
            raise _not_numbers(text, where)
        value = following


def _not_numbers(text: str, where: str) -> ArgumentError:
    expected = "numbers as in llama-bench: 128, 1,2,4, 1-4, 1-9+2 or 1-8*2"
    return ArgumentError(f"{where} takes {expected}; not {text!r}", where=where, expected=expected, found=text)


def pair(text: str, where: str) -> tuple[int, int]:
    """ "pp,tg" of -pg. Raises ArgumentError."""
    found = numbers(text, where)
    if len(found) != 2:
        raise ArgumentError(
            f"{where} takes two numbers, prompt and generated tokens: 512,128; not {text!r}",
            where=where,
            expected="two numbers",
            found=text,
        )
    return found[0], found[1]


def words(text: str, allowed: tuple[str, ...], where: str) -> list[str]:
    """A comma list of words. Raises ArgumentError that names what may be given."""
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if word not in allowed:
            expected = ", ".join(allowed)
            raise ArgumentError(
                f"{where} takes a list of {expected}; not {word!r}", where=where, expected=expected, found=word
            )
    return list(dict.fromkeys(found))


def plan(
    prompts: list[int],
    gens: list[int],
    pairs: list[tuple[int, int]],
    depths: list[int],
    parallel: list[int],
    load: bool,
) -> list[Test]:
    """The tests in llama-bench's order: prompts, generations, pairs, at every depth; loading first.

    Several sequences concern generation only. Raises ArgumentError when nothing is left to do.
    """
    found = [Test(n_prompt=1, load=True)] if load else []
    for depth in depths:
        found += [Test(n_prompt=n, n_depth=depth) for n in prompts if n]
        found += [Test(n_gen=n, n_depth=depth, n_seq=k) for n in gens if n for k in parallel if k]
        found += [Test(p, n, depth) for p, n in pairs if p or n]
    if not found:
        raise ArgumentError(
            "there is nothing to run: -p, -n and -pg are all 0",
            where="-p, -n, -pg",
            expected="at least one test",
            found="none",
        )
    return found
