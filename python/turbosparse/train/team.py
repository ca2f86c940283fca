"""The processes of one run: alone, or those that torchrun or accelerate started. Rank 0 writes and decides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over the team; all members must bring the same shapes in the same order."""
        if self.size == 1:
            return
        kept = list(tensors)
        for work in [dist.all_reduce(t, async_op=True) for t in kept]:
            work.wait()
        for t in kept:
            t.div_(self.size)

    def average_numbers(self, numbers: dict[str, float], device: torch.device) -> dict[str, float]:
        """The mean of each; one that is not finite in any process is not finite in all."""
        if self.size == 1:
            return numbers
        packed = torch.tensor(list(numbers.values()), dtype=torch.float32, device=device)
        self.average([packed])
        return dict(zip(numbers, packed.tolist(), strict=True))

    def agree(self, number: float, device: torch.device) -> float:
        """Rank 0's number."""
        if self.size == 1:
            return number
        packed = torch.tensor([number], dtype=torch.float64, device=device)
        dist.broadcast(packed, 0)
        return float(packed)


def join_team(device: str) -> tuple[Team, str]:
    """The team that the launcher's variables (RANK, WORLD_SIZE, LOCAL_RANK) name, and this process's own device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team(), device
    if device == "cuda":
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Team(dist.get_rank(), dist.get_world_size()), device


def leave_team(team: Team) -> None:
    """Ends what `join_team` began; every member has to call it."""
    if team.size > 1:
        dist.destroy_process_group()
