"""Runs the tests: contenders take turns, so that the machine's drift hits all of them alike."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bandwidth import BandwidthProbe
from ..errors import ArgumentError
from .engine import Counters, Engine, load_time
from .machine import FileInfo
from .opponent import ROOFLINE, Opponent
from .plan import Settings, Test, Work
from .ratio import Ratio, paired
from .record import Record, Run, kv_bytes

STOCK = "llama.cpp"
STEADY = 1.2  # how far the memory's speeds around the turns of a round may lie apart, as a factor
SETTLE = 0.03  # seconds: threads of OpenMP look for work that long after a turn, in another contender's time
ROUND_TRIES = 8  # then the round counts all the same
WAIT = 1.0  # seconds between two looks at the memory while it is outside of a Window
PATIENCE = 600.0  # seconds that one round may wait for it

Note = Callable[[str], None]
Advance = Callable[[str, int, int], None]  # label, turns done, turns in all


@dataclass(frozen=True)
class Window:
    """Speeds of the memory, bytes per second, at which rounds count."""

    low: float
    high: float

    def holds(self, speeds: Sequence[float]) -> bool:
        """Are all of `speeds` in it?"""
        return self.low <= min(speeds) and max(speeds) <= self.high

    def require_patience(self, begin: float, speed: float) -> None:
        """Raises ArgumentError when the wait that began at `begin` (time.monotonic) has been long enough."""
        if time.monotonic() - begin > PATIENCE:
            raise ArgumentError(
                f"The memory has not read at the speed of --bandwidth for {PATIENCE / 60:.0f} minutes.",
                where="--bandwidth",
                expected=f"{self.low / 1e9:g} to {self.high / 1e9:g} GB/s",
                found=f"{speed / 1e9:.1f} GB/s at last",
            )


@dataclass(frozen=True)
class Job:
    """One file with all that is to be done to it.

    Attributes:
        modes: of the FFN, each a contender.
        repetitions: of every test.
        warm_up: run a little of each test first.
        baseline: the dense twin for stock llama.cpp, None = no comparison.
        buffers: the twin's buffer type, None = the fastest.
        memory: where our weights lie, as Model has it.
        window: rounds of one-token decode count only at these speeds of the memory; None = at any steady one.
    """

    file: Path
    settings: Sequence[Settings]
    tests: Sequence[Test]
    modes: Sequence[str]
    repetitions: int = 5
    warm_up: bool = True
    baseline: Path | None = None
    buffers: str | None = None
    memory: str = "auto"
    window: Window | None = None


class Runner:
    """Carries a Job out.

    Args:
        note: told about the baseline's fate, a line each.
        advance: told after every turn.
    """

    def __init__(self, job: Job, note: Note, advance: Advance) -> None:
        self.job, self._advance = job, advance
        self.file = FileInfo.read(job.file)
        self._order = random.Random(0)
        self._opponent = Opponent(job.baseline, note, job.buffers) if job.baseline else None
        self._done, self._total = 0, self._count()

    def run(self) -> Iterator[list[Record]]:
        """The records of one test after the other; frees everything when it ends, by whatever cause."""
        try:
            for settings in self.job.settings:
                yield from self._with(settings)
        finally:
            if self._opponent:
                self._opponent.close()

    def _count(self) -> int:
        rivals = self._opponent is not None
        loads = sum(test.load for test in self.job.tests) * (len(self.job.modes) + rivals)
        per_round = len(self.job.modes) + rivals * len(teams_of(self.job.modes))
        turns = per_round * sum(len(test.turns()) for test in self.job.tests if not test.load)
        return (loads + turns) * self.job.repetitions * len(self.job.settings)

    def _with(self, settings: Settings) -> Iterator[list[Record]]:
        loads = [test for test in self.job.tests if test.load]
        others = [test for test in self.job.tests if not test.load]
        for test in loads:
            yield self._load(test, settings)
        with BandwidthProbe() as probe:
            for n_seq in dict.fromkeys(test.n_seq for test in others):
                yield from self._alike([test for test in others if test.n_seq == n_seq], settings, probe)

    def _alike(self, tests: list[Test], settings: Settings, probe: BandwidthProbe) -> Iterator[list[Record]]:
        """The records of tests with the same n_seq: each comes when the last engine has run it."""
        teams, n_ctx = teams_of(self.job.modes), max(test.n_ctx for test in tests)
        parts: list[list[Part]] = [[] for _ in tests]
        for team in teams:
            if self._opponent:
                self._opponent.close()  # or ours may find no room, and stay mapped
            with Engine(self.job.file, settings, n_ctx, tests[0].n_seq, self.job.memory, team[0]) as engine:
                for test, found in zip(tests, parts, strict=True):
                    found.append(_Rounds(self, engine, probe, settings, test, team).run())
                    if team is teams[-1]:
                        yield self.records(test, settings, found)

    def _load(self, test: Test, settings: Settings) -> list[Record]:
        runs = {mode: Run(mode) for mode in self.job.modes}
        if self._opponent:
            runs[STOCK] = Run(STOCK, "CPU")
        for _ in range(self.job.repetitions):
            for name in self.shuffled(list(runs)):
                if self._opponent and name == STOCK:
                    ns = self._opponent.load_time(settings)
                else:
                    ns, runs[name].resident = load_time(self.job.file, settings, name, self.job.memory)
                runs[name].turns_ns.append(ns)
                self.step(test, name)
        for run in runs.values():
            run.repetitions_ns = run.turns_ns
        return self.records(test, settings, [Part(list(runs.values()))])

    # --- what the rounds use ------------------------------------------------

    @property
    def opponent(self) -> Opponent | None:
        """The baseline, if there is one."""
        return self._opponent

    def shuffled(self, names: list[str]) -> list[str]:
        """`names` in a new order: nobody always comes first."""
        return self._order.sample(names, len(names))

    def step(self, test: Test, name: str) -> None:
        """Count a turn for the progress bar."""
        self._done += 1
        self._advance(f"{test.label} {name}", self._done, self._total)

    def records(self, test: Test, settings: Settings, parts: Sequence[Part]) -> list[Record]:
        """The lines of a test, ratios against the baseline included; that of the baseline itself comes last."""
        found = [
            self._record(test, settings, run, part) for part in parts for run in part.runs if run is not part.stock
        ]
        stocks = [part.stock for part in parts if part.stock]
        if self._opponent and stocks:
            bandwidth = median_of([speed for part in parts for speed in part.bandwidths])
            found.append(Record(test, settings, self._opponent.file, Run.joined(stocks), bandwidth))
        return found

    def _record(self, test: Test, settings: Settings, run: Run, part: Part) -> Record:
        ratio, baseline = None, None
        if part.stock:
            ratio, baseline = self._ratio(run, part.stock, settings, test, part.bandwidths)
        return Record(test, settings, self.file, run, median_of(part.bandwidths), ratio, baseline)

    def _ratio(
        self, run: Run, stock: Run, settings: Settings, test: Test, bandwidths: list[float]
    ) -> tuple[Ratio | None, str]:
        """Against stock, or against dense bytes over bandwidth where stock is too slow to be a fair opponent."""
        assert self._opponent
        name = f"llama.cpp {stock.buffer_type}"
        if not bandwidths:
            return paired(stock.turns_ns, run.turns_ns), name
        dense = self._opponent.file.bytes_token + kv_bytes(self._opponent.file, settings, test)
        ideal = [
            1e9 * dense * turn.n_tokens / b for turn, b in zip(_all_turns(test, bandwidths), bandwidths, strict=True)
        ]
        reached = statistics.median(i / s for i, s in zip(ideal, stock.turns_ns, strict=True))
        if reached < ROOFLINE:
            return paired(ideal, run.turns_ns), f"dense bytes / bandwidth ({name} reaches {reached:.0%})"
        return paired(stock.turns_ns, run.turns_ns), name


def teams_of(modes: Sequence[str]) -> list[list[str]]:
    """`modes` by the engine they share: a model that is loaded for "predicted" lays its rows out for that alone."""
    teams = [[mode for mode in modes if (mode == "predicted") == predicted] for predicted in (True, False)]
    return sorted(filter(None, teams), key=lambda team: modes.index(team[0]))


def median_of(values: Sequence[float]) -> float | None:
    """None of none."""
    return statistics.median(values) if values else None


@dataclass
class Part:
    """A test as far as one engine runs it: contenders that took turns with each other.

    Attributes:
        bandwidths: bytes per second of the machine in each round; none where it says nothing.
    """

    runs: list[Run]
    bandwidths: list[float] = field(default_factory=list)

    @property
    def stock(self) -> Run | None:
        """The baseline's run, if it takes part."""
        return next((run for run in self.runs if run.mode == STOCK), None)


def _all_turns(test: Test, bandwidths: list[float]) -> list[Work]:
    turns = test.turns()
    return [turns[i % len(turns)] for i in range(len(bandwidths))]


@dataclass(frozen=True)
class _Turn:
    ns: int
    counters: Counters


def is_steady(speeds: Sequence[float]) -> bool:
    """Was it one state of the memory?"""
    return max(speeds) <= STEADY * min(speeds)


class _Rounds:
    """One test: every turn is taken by every contender before the next one begins."""

    def __init__(
        self, runner: Runner, engine: Engine, probe: BandwidthProbe, settings: Settings, test: Test, modes: list[str]
    ) -> None:
        self._runner, self._engine, self._probe = runner, engine, probe
        self._settings, self._test = settings, test
        self._runs = {mode: Run(mode, resident=engine.model.resident) for mode in modes}
        self._bandwidths: list[float] = []

    def run(self) -> Part:
        test, runner = self._test, self._runner
        self._engine.seat(test.n_depth)
        if runner.opponent:
            name = runner.opponent.ready(test, self._settings, test.n_ctx)
            self._runs[STOCK] = Run(STOCK, name)
        if runner.job.warm_up:
            for name in self._runs:
                self._turn(name, test.warm_up())
        for _ in range(runner.job.repetitions):
            self._repetition()
        if predicted := self._runs.get("predicted"):
            predicted.recall = self._engine.recall(test.n_depth, test.n_prompt + test.n_gen)
        return Part(list(self._runs.values()), self._bandwidths)

    def _repetition(self) -> None:
        spent = dict.fromkeys(self._runs, 0)
        for work in self._test.turns():
            for name, turn in self._round(work).items():
                run = self._runs[name]
                run.turns_ns.append(turn.ns)
                run.counters += turn.counters
                spent[name] += turn.ns
                self._runner.step(self._test, name)
        for name, ns in spent.items():
            self._runs[name].repetitions_ns.append(ns)

    def _round(self, work: Work) -> dict[str, _Turn]:
        """Everybody's turn. Decode is measured against the memory: a round in which its speed changes is repeated."""
        if not self._test.one_by_one:
            return {name: self._turn(name, work) for name in self._runner.shuffled(list(self._runs))}
        window, begin = self._runner.job.window, time.monotonic()
        for attempt in itertools.count(1):
            speeds, turns = [self._speed()], {}
            if window and not window.holds(speeds):
                window.require_patience(begin, speeds[0])
                time.sleep(WAIT)
                continue
            for name in self._runner.shuffled(list(self._runs)):
                turns[name] = self._turn(name, work)
                speeds.append(self._speed())
            if window.holds(speeds) if window else is_steady(speeds) or attempt == ROUND_TRIES:
                break
        self._bandwidths.append(statistics.median(speeds))
        return turns

    def _speed(self) -> float:
        time.sleep(SETTLE)
        return self._probe.measure(self._settings.n_threads)

    def _turn(self, name: str, work: Work) -> _Turn:
        if name == STOCK:
            assert self._runner.opponent
            return _Turn(self._runner.opponent.run(work, self._test.n_seq), Counters())
        return _Turn(*self._engine.run(work, name))
