"""The learning rate over a run: a linear rise, then a fall by one of several rules, by the optimizer step."""

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
        final + (highest - final) * (1 + cos(pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2     then

    As in solo-learn. A single step of warm-up has the highest rate.

    Args:
        step: Optimizer steps done, from 0.
        warmup_steps: Steps of the linear rise; the last of them has the highest rate.
        total_steps: Steps of the whole run.
        highest: The highest rate.
        start: Rate of the first step, where there is a warm-up.
        final: Rate from `total_steps` on.

    Returns:
        A number between `start` or `final` and `highest`.

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
    """How long a run and its parts are, in optimizer steps.

    Attributes:
        warmup_steps: Of the linear rise.
        total_steps: Of the run.
        steps_per_epoch: Of an epoch.
    """

    warmup_steps: int
    total_steps: int
    steps_per_epoch: float = 1.0


@dataclass(frozen=True)
class _Share:
    """A group's learning rate at a step as a share of its highest, which is how torch's LambdaLR wants it."""

    highest: float
    start: float
    warmup_steps: int
    after: Callable[[int], float]
    """The share at a step after the warm-up."""

    def __call__(self, step: int) -> float:
        if self.highest == 0.0:
            return 0.0
        if step < self.warmup_steps:
            return warmup_cosine(step, self.warmup_steps, self.warmup_steps, self.highest, self.start) / self.highest
        return self.after(step)


def _after_warmup(config: OptimizerConfig, highest: float, final: float, lengths: Lengths) -> Callable[[int], float]:
    """The share of the highest rate at a step after the warm-up."""
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
    """torch's LambdaLR, whose length is that of the run and not that of the checkpoint which it resumes from.

    LambdaLR would restore the old length, and a finished run that gets more epochs would train them at the last rate.
    Here the rate of each step, the first one included, is the one that a run of the new length has at that step.

    torch's SequentialLR of LinearLR and another would not do: it refuses a rise from 0, it starts each group at a share
    of its own rate, it leaves no group constant, and it finds a rate from the one before, which is of the old length.
    """

    def state_dict(self) -> dict[str, Any]:
        """The steps done, without the lengths."""
        return {**super().state_dict(), "lr_lambdas": [None] * len(self.lr_lambdas)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the steps done, and sets the optimizer's rates, whose state has to be loaded before."""
        super().load_state_dict({**state_dict, "lr_lambdas": [None] * len(self.lr_lambdas)})
        shares = [share(self.last_epoch) for share in self.lr_lambdas]
        self._last_lr = [rate * share for rate, share in zip(self.base_lrs, shares, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, lengths: Lengths, scale: float = 1.0
) -> RunSchedule:
    """The schedule of each of an optimizer's groups, to be stepped after each optimizer step.

    After the linear rise of `warmup_cosine`, with e the epochs since the start and w those of the warm-up:

        cosine       as `warmup_cosine`
        step         highest * decay_factor ^ (number of `milestones` at or before e)
        exponential  highest * decay_factor ^ (e - w)
        constant     highest

    Args:
        optimizer: Its groups' `lr` is their highest rate; those with a true `constant_learning_rate` keep it.
        config: The rule and its numbers.
        lengths: Of the run.
        scale: Factor of the first and the last rate, that of the learning rate: `images_per_step` / 256 or 1.
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
