"""Constants of a dReLU conversion: its stages, rates and targets. No code beyond arithmetic on them."""

from __future__ import annotations

from dataclasses import dataclass

# teacher: FFNs on the teacher's inputs; drift: FFNs on the student's own; whole: end to end; masked: with predictors.
STAGES = ("teacher", "drift", "whole", "masked")


@dataclass(frozen=True)
class DreluRecipe:
    """One run. `shares` are those of STAGES in the budget; a stage with share 0 is left out.

    `activation`: "drelu", or "swiglu" for a control that keeps its activation: end to end only, no zeros to steer.
    `anneal`: the share of the first stage over which the activation goes from SwiGLU to dReLU; 0 swaps abruptly.
    `zero_ramp`: the shares of all FFN distillation over which the zero rate's target rises from what the bare swap
    gives to `zero_target`. `warm`: the share of the masked stage in which the predictors learn before they are applied.
    """

    shares: tuple[float, float, float, float] = (0.25, 0.1, 0.45, 0.2)
    lrs: tuple[float, float, float, float] = (1e-3, 5e-4, 3e-4, 2e-4)
    predictor_lr: float = 2e-3  # they start from nothing in the last stage, where the model is nearly done
    batch: int = 8
    n_tokens: int = 256
    last_lr: float = 0.1  # of lr, at a stage's end
    warmup_steps: int = 20
    warmup: float = 0.1  # of a stage, if that is shorter than the steps above
    weight_decay: float = 0.01
    clip: float = 1.0
    activation: str = "drelu"
    signs: bool = True
    anneal: float = 0.3  # by python -m turbosparse.train.swap_study; 0.6 is worse than 0
    zero_target: float = 0.88
    zero_ramp: tuple[float, float] = (0.2, 0.8)
    zero_gain: float = 0.3
    zero_weight: float = 0.02  # the sparsity term's weight before feedback
    hidden_weight: float = 0.5
    rank: int = 96
    warm: float = 0.3
    predictor_weight: float = 0.2
    pos_weight: float = 6.0
    calibration_batches: int = 2
    seed: int = 1

    def stage_at(self, progress: float) -> tuple[int, float]:
        """Index into STAGES and the share of that stage that is done, at `progress` in [0, 1] of the run."""
        total, start = sum(self.shares), 0.0
        at = min(max(progress, 0.0), 1.0) * total
        last = max(i for i, share in enumerate(self.shares) if share > 0)
        for i, share in enumerate(self.shares):
            if share > 0 and (at < start + share or i == last):
                return i, min((at - start) / share, 1.0)
            start += share
        raise AssertionError("shares add up to their sum")

    def blend_at(self, stage: int, local: float) -> float:
        """Share of dReLU in the activation."""
        first = next(i for i, share in enumerate(self.shares) if share > 0)
        return 1.0 if stage > first or self.anneal <= 0 else min(local / self.anneal, 1.0)

    def zero_target_at(self, stage: int, local: float, start_rate: float) -> float:
        """The zero rate to steer for; `start_rate` is the bare swap's."""
        teacher, drift = self.shares[:2]
        if stage > 1 or teacher + drift <= 0:
            return self.zero_target
        done = (local * teacher if stage == 0 else teacher + local * drift) / (teacher + drift)
        begin, end = self.zero_ramp
        share = min(max((done - begin) / (end - begin), 0.0), 1.0)
        return min(start_rate, self.zero_target) + share * (self.zero_target - min(start_rate, self.zero_target))
