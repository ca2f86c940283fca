"""The published numbers: the table is what the measurements say, and each can be repeated."""

from __future__ import annotations

import pytest

from bench.publish import BEGIN, COMMANDS, END, GOALS, RECIPES, RESULTS, compare, stored, table

HEAD = ("turbosparse synth --gguf ", "turbosparse bench ", "machine: ", "commit: ")


def test_the_table_is_that_of_the_measurements() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    shown = text.split(BEGIN)[1].split(END)[0]
    assert shown == table(), "write it again: python -m bench.publish --table"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_measurement_says_how_to_repeat_it(name: str) -> None:
    lines = (RESULTS / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    notes = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    assert [note.startswith(head) for note, head in zip(notes, HEAD, strict=False)] == [True] * len(HEAD)
    assert stored(name)


def test_every_goal_is_a_row_of_a_measurement() -> None:
    for goal in GOALS:
        assert COMMANDS[goal.id].split()[0] in RECIPES
        assert any((row["test"], row["mode"]) == (goal.test, goal.mode) for row in stored(goal.id)), goal.work


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "agree"), (10.0, "DIFFER"), (-10.0, "DIFFER")])
def test_a_second_run_is_compared_with_the_first(shift: float, verdict: str) -> None:
    published = [row for row in stored("decode") if row["ratio"]]
    keys = ("ratio", "ratio_ci95_low", "ratio_ci95_high")
    rows = []
    for row in published:
        ratio, low, high = (float(row[key]) + shift for key in keys)
        rows.append({"test": row["test"], "mode": row["mode"], "ratio": ratio, "ratio_ci95": [low, high]})
    lines = compare("decode", rows)
    assert len(lines) == len(published) == 2
    assert all(line.endswith(verdict) for line in lines)
