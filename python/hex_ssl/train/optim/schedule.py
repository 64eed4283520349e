"""Learning rate schedules: a linear warm-up, then one of several decays, per optimizer step."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from hex_ssl.train.config import OptimizerConfig


def warmup_cosine(
    step: int, warmup_steps: int, total_steps: int, highest: float = 1.0, start: float = 0.0, final: float = 0.0
) -> float:
    """The learning rate at a step.

        start + (highest - start) * step / (warmup_steps - 1)                              while step < warmup_steps
        final + (highest - final) * (1 + cos(pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2     after

    This is solo-learn's schedule. If the warm-up is a single step, that step has the highest rate.

    Args:
        step: Number of optimizer steps done.
        warmup_steps: Number of warm-up steps. The last of them has the highest rate.
        total_steps: Number of steps of the whole run.
        highest: The highest rate.
        start: Rate of the first step if there are at least two warm-up steps.
        final: Rate from `total_steps` on.

    Returns:
        The learning rate.

    Example:
        >>> [round(warmup_cosine(step, warmup_steps=3, total_steps=7), 2) for step in range(8)]
        [0.0, 0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup_steps:
        return start + (highest - start) * step / (warmup_steps - 1) if warmup_steps > 1 else highest
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return final + (highest - final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Lengths:
    """Durations in optimizer steps.

    Attributes:
        warmup_steps: Steps of the warm-up.
        total_steps: Steps of the run.
        steps_per_epoch: Steps of an epoch.
    """

    warmup_steps: int
    total_steps: int
    steps_per_epoch: float = 1.0


@dataclass(frozen=True)
class _Share:
    """The learning rate of a group divided by its highest rate, as torch's LambdaLR expects it."""

    highest: float
    start: float
    warmup_steps: int
    after: Callable[[int], float]
    """The same for a step after the warm-up."""

    def __call__(self, step: int) -> float:
        if self.highest == 0.0:
            return 0.0
        if step < self.warmup_steps:
            return warmup_cosine(step, self.warmup_steps, self.warmup_steps, self.highest, self.start) / self.highest
        return self.after(step)


def _after_warmup(config: OptimizerConfig, highest: float, final: float, lengths: Lengths) -> Callable[[int], float]:
    """The learning rate after the warm-up, divided by the highest rate."""
    per_epoch = lengths.steps_per_epoch
    if config.schedule == "constant":
        return _constant
    if config.schedule == "step":
        falls = [round(each * per_epoch) for each in config.milestones]
        return lambda step: config.decay_factor ** bisect_right(falls, step)
    if config.schedule == "exponential":
        return lambda step: config.decay_factor ** ((step - lengths.warmup_steps) / per_epoch)
    return lambda step: warmup_cosine(step, lengths.warmup_steps, lengths.total_steps, highest, final=final) / highest


def _constant(step: int) -> float:
    return 1.0


class RunSchedule(LambdaLR):
    """torch's LambdaLR, but resuming keeps the length of the new run instead of that of the checkpoint.

    LambdaLR would restore the old length, and a finished run that is extended would train its additional epochs at the
    final rate. Here each step has the rate that a run of the new length has at that step.

    torch's SequentialLR with LinearLR does not fit: it cannot start at 0, it starts each group at a fraction of its
    own rate, it cannot keep a group constant, and it computes a rate from the previous one, which has the old length.
    """

    def state_dict(self) -> dict[str, Any]:
        """The number of steps done, without the lengths."""
        return {**super().state_dict(), "lr_lambdas": [None] * len(self.lr_lambdas)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of steps and sets the learning rates. Load the optimizer's state first."""
        super().load_state_dict({**state_dict, "lr_lambdas": [None] * len(self.lr_lambdas)})
        shares = [share(self.last_epoch) for share in self.lr_lambdas]
        self._last_lr = [rate * share for rate, share in zip(self.base_lrs, shares, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, lengths: Lengths, scale: float = 1.0
) -> RunSchedule:
    """The schedule of an optimizer, to be stepped after each optimizer step.

    After the warm-up of `warmup_cosine`, with e the epochs since the start of the run and w the warm-up epochs:

        cosine       as `warmup_cosine`
        step         highest * decay_factor ^ (number of `milestones` at or before e)
        exponential  highest * decay_factor ^ (e - w)
        constant     highest

    Args:
        optimizer: The optimizer. `lr` of each group is its highest rate. Groups with a true `constant_learning_rate`
            keep it.
        config: The schedule and its settings.
        lengths: Durations of the run, the warm-up and an epoch.
        scale: Factor of `warmup_start` and `final_learning_rate`: `images_per_step` / 256 or 1, as for the learning
            rate.
    """
    start, final = config.warmup_start * scale, config.final_learning_rate * scale
    return RunSchedule(
        optimizer,
        [
            _constant
            if group.get("constant_learning_rate")
            else _Share(group["lr"], start, lengths.warmup_steps, _after_warmup(config, group["lr"], final, lengths))
            for group in optimizer.param_groups
        ],
    )
