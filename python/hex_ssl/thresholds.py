"""Threshold strategies: which negatives count as hierarchical.

A negative is hierarchical where its similarity to the anchor is above the
threshold. Two scales of similarity: "cosine", the cosine as it is, and
"minmax", the cosine rescaled to [0, 1] over the anchor's row (its own
similarity included), as the authors' release does for its manual strategies.

Source: HEX ("Hierarchical Emergence Exploitation", WACV 2025), supplement S7.3.4, Table 7 and S7.4.1.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hex_ssl.validation import check_at_least, check_number

SCALES = ("cosine", "minmax")


class Threshold(ABC):
    """A threshold strategy."""

    scheduled: ClassVar[bool] = False
    """Whether the threshold changes with the epoch."""
    reads_labels: ClassVar[bool] = False
    """Whether labels decide, in some epoch at least. A loss refuses labels that its threshold never reads."""

    @abstractmethod
    def at(self, epoch: int) -> tuple[str, float | Tensor]:
        """The rule in an epoch, in the op's terms.

        Args:
            epoch: The epoch, counted from 0.

        Returns:
            The kind, "adaptive", "cosine", "minmax" or "labels", and its number: the quantile for
            "adaptive", the threshold for the two scales, 0 for "labels".
        """


@dataclass(frozen=True)
class AdaptiveThreshold(Threshold):
    """The mean over the anchors of a quantile of each anchor's row of cosine similarities.

    Found anew in each batch; no gradient goes through it. The row holds all keys, the anchor itself and
    its positives included; 'nearest' interpolation. Over several processes the rows are the local anchors
    against all gathered keys, and the mean is over all processes' anchors.

    Args:
        quantile: In [0, 1].

    Raises:
        ValueError: `quantile` is out of its range.

    Example:
        >>> AdaptiveThreshold().at(epoch=0)
        ('adaptive', 0.99)
    """

    quantile: float = 0.99

    def __post_init__(self) -> None:
        check_number("quantile", self.quantile)
        if not 0.0 <= self.quantile <= 1.0:
            raise ValueError(f"expected `quantile` to be in [0, 1], but got {self.quantile}")

    def at(self, epoch: int) -> tuple[str, float]:
        """See :meth:`Threshold.at`."""
        return "adaptive", self.quantile


@dataclass(frozen=True)
class FixedThreshold(Threshold):
    """A constant.

    Args:
        value: The threshold. -inf makes every negative hierarchical, +inf none. As a 0-d tensor on the CPU
            it may change without torch.compile compiling anew.
        scale: "cosine" or "minmax".

    Raises:
        ValueError: `value` is NaN or `scale` unknown.

    Example:
        >>> FixedThreshold(0.9).at(epoch=0)
        ('minmax', 0.9)
    """

    value: float | Tensor
    scale: str = "minmax"

    def __post_init__(self) -> None:
        if not isinstance(self.value, Tensor):
            check_number("value", self.value)
        elif self.value.numel() != 1:
            raise ValueError(f"expected `value` to be a number, but got a tensor of shape {list(self.value.shape)}")
        if math.isnan(float(self.value)):
            raise ValueError("expected `value` to be a number, but got nan")
        _check_scale(self.scale)

    def at(self, epoch: int) -> tuple[str, float | Tensor]:
        """See :meth:`Threshold.at`."""
        return self.scale, self.value


@dataclass(frozen=True)
class StepThreshold(Threshold):
    """start - step_down * floor(epoch / epoch_step), never below `min`.

    By default `start`, `min` and `step_down` are those of one row of Table 7 (S7.3.4), and `epoch_step` the authors'
    release's for 400 epochs; its 100-epoch runs step every 25. Set it to about a quarter of the run.

    Args:
        start: The threshold of the first epoch.
        step_down: What each step takes off, at least 0.
        epoch_step: Epochs between steps, at least 1.
        min: The lowest threshold, at most `start`.
        scale: "cosine" or "minmax".

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(StepThreshold().at(epoch)[1], 2) for epoch in (0, 99, 100, 399)]
        [0.95, 0.95, 0.85, 0.65]
    """

    start: float = 0.95
    step_down: float = 0.1
    epoch_step: int = 100
    min: float = 0.65
    scale: str = "minmax"
    scheduled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range(self.start, self.min)
        check_at_least("step_down", self.step_down, 0.0)
        check_number("epoch_step", self.epoch_step)
        if self.epoch_step < 1:
            raise ValueError(f"expected `epoch_step` to be at least 1, but got {self.epoch_step}")
        _check_scale(self.scale)

    def at(self, epoch: int) -> tuple[str, float]:
        """See :meth:`Threshold.at`."""
        return self.scale, max(self.min, self.start - self.step_down * (epoch // self.epoch_step))


@dataclass(frozen=True)
class CosineThreshold(Threshold):
    """min + (start - min) * (1 + cos(pi * epoch / max_epochs)) / 2, and `min` from `max_epochs` on.

    The plain curve of S7.3.4. (The authors' release applies it to its own last value, so that it falls faster.)

    Args:
        start: The threshold of the first epoch.
        min: The threshold from `max_epochs` on, at most `start`.
        max_epochs: The length of the curve, at least 1.
        scale: "cosine" or "minmax".

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> [round(CosineThreshold(max_epochs=100).at(epoch)[1], 2) for epoch in (0, 50, 100, 150)]
        [0.95, 0.8, 0.65, 0.65]
    """

    start: float = 0.95
    min: float = 0.65
    max_epochs: int = 400
    scale: str = "minmax"
    scheduled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range(self.start, self.min)
        check_number("max_epochs", self.max_epochs)
        if self.max_epochs < 1:
            raise ValueError(f"expected `max_epochs` to be at least 1, but got {self.max_epochs}")
        _check_scale(self.scale)

    def at(self, epoch: int) -> tuple[str, float]:
        """See :meth:`Threshold.at`."""
        progress = min(epoch / self.max_epochs, 1.0)
        return self.scale, self.min + (self.start - self.min) * (1.0 + math.cos(math.pi * progress)) / 2.0


@dataclass(frozen=True)
class SupervisedThreshold(Threshold):
    """No threshold: the negatives with the anchor's (superclass) label are hierarchical (S7.4.4, Table 10).

    Example:
        >>> SupervisedThreshold().at(epoch=0)
        ('labels', 0.0)
    """

    reads_labels: ClassVar[bool] = True

    def at(self, epoch: int) -> tuple[str, float]:
        """See :meth:`Threshold.at`."""
        return "labels", 0.0


NAMED: dict[str, type[Threshold]] = {
    "adaptive": AdaptiveThreshold,
    "step": StepThreshold,
    "cosine": CosineThreshold,
    "supervised": SupervisedThreshold,
}
"""The strategies that have defaults, by name."""


def threshold_from(threshold: Threshold | str) -> Threshold:
    """A strategy from itself or from its name.

    Args:
        threshold: A strategy, or "adaptive", "step", "cosine" or "supervised" for one with its defaults.

    Returns:
        The strategy.

    Raises:
        TypeError: `threshold` is neither.
        ValueError: No strategy has this name, or the one that has needs a value.

    Example:
        >>> threshold_from("adaptive")
        AdaptiveThreshold(quantile=0.99)
    """
    if isinstance(threshold, Threshold):
        return threshold
    if not isinstance(threshold, str):
        raise TypeError(f"expected `threshold` to be a strategy or its name, but got {type(threshold).__name__}")
    if threshold == "fixed":
        raise ValueError('threshold "fixed" needs a value: pass hex_ssl.thresholds.FixedThreshold(value)')
    if threshold not in NAMED:
        choices = ", ".join(f'"{name}"' for name in NAMED)
        raise ValueError(f'expected `threshold` to be one of {choices} or a strategy, but got "{threshold}"')
    return NAMED[threshold]()


def check_labels_read(name: str, threshold: Threshold) -> None:
    """Refuses labels that the threshold never reads.

    Raises:
        ValueError: It reads none.
    """
    if not threshold.reads_labels:
        raise ValueError(
            f"expected no `{name}` for {type(threshold).__name__}, which does not read them; "
            'with threshold="supervised" they tell which negatives are hierarchical'
        )


def _check_scale(scale: str) -> None:
    if scale not in SCALES:
        raise ValueError(f'expected `scale` to be one of "cosine", "minmax", but got "{scale}"')


def _check_range(start: float, lowest: float) -> None:
    check_number("start", start)
    check_number("min", lowest)
    if not math.isfinite(start):
        raise ValueError(f"expected `start` to be a finite number, but got {start}")
    if not (math.isfinite(lowest) and lowest <= start):
        raise ValueError(f"expected `min` to be a finite number of at most `start` = {start}, but got {lowest}")


NO_HIERARCHY = FixedThreshold(math.inf, scale="cosine")
"""No negative is hierarchical: the importance formulation is then NT-Xent (InfoNCE)."""
ALL_HIERARCHICAL = FixedThreshold(-math.inf, scale="cosine")
"""Every negative is hierarchical: the importance formulation is then HCL."""
