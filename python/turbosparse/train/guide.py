"""Who a student learns from end to end: a teacher that runs along, or one whose answers were kept."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from turbosparse.torch.decoder import CausalLM
from turbosparse.train.end_to_end import Answers, ask, pair_depths
from turbosparse.train.teacher_cache import CacheMix

Depths = dict[int, int]


class Guide(Protocol):
    """The teacher of the stages whole and masked."""

    def rows(self, step: int, batch: int) -> Tensor | None:
        """Windows int64 [batch, T + 1] of a step, if the guide brings its own; a pure function of the step."""

    def answers(self, rows: Tensor, device: torch.device) -> tuple[Answers, Depths]:
        """What it says to `rows`, and the student's depth for each of the answers' depths."""


class LiveGuide:
    """A model that is asked; `layers`: those of the first teacher that it has, `kept`: those that the student has."""

    def __init__(self, teacher: CausalLM, layers: list[int], kept: list[int]) -> None:
        self.teacher = teacher
        ends = [*kept[1:], layers[-1] + 1]  # the student's layer i has to get to where its next one begins
        self.depths = {sum(layer < end for layer in layers): i + 1 for i, end in enumerate(ends)}

    def rows(self, step: int, batch: int) -> Tensor | None:
        """None: any text will do."""
        return None

    def answers(self, rows: Tensor, device: torch.device) -> tuple[Answers, Depths]:
        """Runs the teacher."""
        return ask(self.teacher, rows, self.depths), self.depths


class CacheGuide:
    """Kept answers; `kept`: the teacher's layers that the student has."""

    def __init__(self, mix: CacheMix, kept: list[int]) -> None:
        self.mix = mix
        self.depths = pair_depths(kept, mix.depths)
        self._answers: Answers | None = None

    def rows(self, step: int, batch: int) -> Tensor | None:
        """The windows that were asked about."""
        self._answers = self.mix.batch(step, batch)
        return self._answers.tokens

    def answers(self, rows: Tensor, device: torch.device) -> tuple[Answers, Depths]:
        """Those to the rows that were last given out."""
        found = self._answers
        if found is None or found.tokens is not rows:
            raise ValueError("rows are not those of the last call")
        states = {depth: state.to(device) for depth, state in found.states.items()}
        return Answers(rows.to(device), found.logits.to(device), states), self.depths
