"""Threshold strategies: they decide which negatives are hierarchical.

A negative is hierarchical if its similarity with the anchor is above the threshold. There are two scales of similarity.
"cosine" is the cosine itself. "minmax" is the cosine rescaled to [0, 1] over the anchor's row. The row includes the
anchor itself if it is among the keys. The authors' release uses "minmax" for its manual strategies.

Source: HEX ("Hierarchical Emergence Exploitation", WACV 2025), supplement S7.3.4, Table 7 and S7.4.1.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

from torch import Tensor

from hex_ssl.choices import Scale
from hex_ssl.validation import check_at_least, check_number

SCALES = ("cosine", "minmax")


class Threshold(ABC):
    """The base class of the threshold strategies."""

    scheduled: ClassVar[bool] = False
    """Whether the threshold changes with the epoch."""
    reads_labels: ClassVar[bool] = False
    """Whether labels decide in at least one epoch. Otherwise a loss raises an error if it is given labels."""

    @abstractmethod
    def at(self, epoch: int) -> tuple[str, float | Tensor]:
        """The rule for an epoch, as the op expects it.

        Args:
            epoch: The epoch, counted from 0.

        Returns:
            The rule, "adaptive", "cosine", "minmax", "margin", "relative_margin" or "labels", and its value. The value
            is the quantile for "adaptive", the threshold for "cosine" and "minmax", the margin for "margin" and
            "relative_margin", and 0 for "labels".
        """


@dataclass(frozen=True)
class AdaptiveThreshold(Threshold):
    """The mean over the anchors of a quantile of each anchor's row of cosine similarities.

    It is computed for each batch, and no gradient flows through it. The row contains the similarities with all keys,
    including the anchor itself and its positives. The quantile uses 'nearest' interpolation. With several processes,
    each row contains the gathered keys, and the mean is over the anchors of all processes.

    Args:
        quantile: The quantile, in [0, 1].

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
    """A constant threshold.

    Args:
        value: The threshold. -inf makes every negative hierarchical, +inf makes none hierarchical. A 0-d tensor on the
            CPU can change without a recompilation by torch.compile.
        scale: "cosine" or "minmax".

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is NaN or has more than one element, or `scale` is unknown.

    Example:
        >>> FixedThreshold(0.9).at(epoch=0)
        ('minmax', 0.9)
    """

    value: float | Tensor
    scale: Scale = "minmax"

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
    """start - step_down * floor(epoch / epoch_step), but never below `min`.

    The defaults of `start`, `min` and `step_down` are those of one row of Table 7 (S7.3.4). The default of `epoch_step`
    is that of the authors' release for 400 epochs. Its runs of 100 epochs use 25. Set it to about a quarter of the run.

    Args:
        start: The threshold of the first epoch.
        step_down: The amount that each step subtracts, at least 0.
        epoch_step: The number of epochs between steps, at least 1.
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
    scale: Scale = "minmax"
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

    This is the curve of S7.3.4. The authors' release applies the formula to the value of the previous epoch, so its
    threshold falls faster.

    Args:
        start: The threshold of the first epoch.
        min: The threshold from `max_epochs` on, at most `start`.
        max_epochs: The number of epochs until the threshold reaches `min`, at least 1.
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
    scale: Scale = "minmax"
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
    """Uses labels instead of a threshold: negatives with the anchor's (superclass) label are hierarchical.

    Source: HEX supplement, S7.4.4, Table 10.

    Example:
        >>> SupervisedThreshold().at(epoch=0)
        ('labels', 0.0)
    """

    reads_labels: ClassVar[bool] = True

    def at(self, epoch: int) -> tuple[str, float]:
        """See :meth:`Threshold.at`."""
        return "labels", 0.0


@dataclass(frozen=True)
class MarginThreshold(Threshold):
    """A margin over the positive: each anchor has its own threshold, from the similarity of its closest positive p.

        epsilon_i = c_ip + margin,   or c_ip + margin |c_ip| if `relative`

    A negative above it may be a positive that nobody labelled. With the formulation "elimination" such negatives are
    left out. No gradient flows through the threshold. With several positives, the most similar one counts: a negative
    has to be closer than all of them. A negative that repeats the positive ties with it, and a margin of 0 keeps it.
    The kernels are exact in this; in torch's operations rounding may decide. `Statistics.threshold` is the margin.

    Args:
        margin: The margin, a finite number. Below 0, negatives that are nearly as close as the positive are above, too.
        relative: Whether the margin is a fraction of the positive's similarity.

    Raises:
        TypeError: `margin` is not a number, or `relative` is not a bool.
        ValueError: `margin` is not finite.

    Source:
        GISTEmbed (Solatorio 2024, arXiv 2402.16829), where a second model finds the similarities. If the guide of
        sentence-transformers' GISTEmbedLoss is the model itself, margin_strategy="absolute" with margin=m is
        `MarginThreshold(-m)`, and margin_strategy="relative" is `MarginThreshold(-m, relative=True)`.

    Example:
        >>> MarginThreshold(0.1).at(epoch=0)
        ('margin', 0.1)
    """

    margin: float = 0.0
    relative: bool = False

    def __post_init__(self) -> None:
        check_number("margin", self.margin)
        if not isinstance(self.relative, bool):
            raise TypeError(f"expected `relative` to be True or False, but got {self.relative!r}")
        if not math.isfinite(self.margin):
            raise ValueError(f"expected `margin` to be a finite number, but got {self.margin}")

    def at(self, epoch: int) -> tuple[str, float]:
        """See :meth:`Threshold.at`."""
        return "relative_margin" if self.relative else "margin", self.margin


NAMED: dict[str, type[Threshold]] = {
    "adaptive": AdaptiveThreshold,
    "step": StepThreshold,
    "cosine": CosineThreshold,
    "supervised": SupervisedThreshold,
}
"""The strategies that need no arguments, by name."""


def threshold_from(threshold: Threshold | str) -> Threshold:
    """Returns a strategy, given the strategy or its name.

    Args:
        threshold: A strategy, or "adaptive", "step", "cosine" or "supervised" for a strategy with its defaults.

    Returns:
        The strategy.

    Raises:
        TypeError: `threshold` is neither a strategy nor a string.
        ValueError: No strategy has this name, or the strategy needs a value.

    Example:
        >>> threshold_from("adaptive")
        AdaptiveThreshold(quantile=0.99)
    """
    if isinstance(threshold, Threshold):
        return threshold
    if not isinstance(threshold, str):
        kind = type(threshold).__name__
        if isinstance(threshold, type):
            kind = f"the class {threshold.__name__}; write {threshold.__name__}()"
        elif isinstance(threshold, Real):
            kind = f"{kind}; write hex_ssl.thresholds.FixedThreshold({threshold})"
        raise TypeError(f"expected `threshold` to be a strategy or its name, but got {kind}")
    if threshold == "fixed":
        raise ValueError('threshold "fixed" needs a value: pass hex_ssl.thresholds.FixedThreshold(value)')
    if threshold not in NAMED:
        choices = ", ".join(f'"{name}"' for name in NAMED)
        raise ValueError(f'expected `threshold` to be one of {choices} or a strategy, but got "{threshold}"')
    return NAMED[threshold]()


def check_labels_read(name: str, threshold: Threshold) -> None:
    """Raises an error if labels are given but the threshold never uses them.

    Raises:
        ValueError: The threshold does not use labels.
    """
    if not threshold.reads_labels:
        raise ValueError(
            f"expected no `{name}` for {type(threshold).__name__}, which does not read them; "
            'with threshold="supervised" they tell which negatives are hierarchical'
        )


def check_eliminates(threshold: Threshold, formulation: str) -> None:
    """Raises an error if negatives are to be left out, but the loss was not told which: its default is none.

    Raises:
        ValueError: The formulation is "elimination" and the threshold is `NO_HIERARCHY`.
    """
    if formulation == "elimination" and threshold is NO_HIERARCHY:
        raise ValueError(
            'expected a `threshold` that finds the negatives to leave out for formulation="elimination", but got none; '
            'write threshold="supervised" and pass labels, or threshold=hex_ssl.thresholds.MarginThreshold()'
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
"""No negative is hierarchical. With it, the formulation "importance" is NT-Xent (InfoNCE)."""
ALL_HIERARCHICAL = FixedThreshold(-math.inf, scale="cosine")
"""Every negative is hierarchical. With it, the formulation "importance" is HCL."""
