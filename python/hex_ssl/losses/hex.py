"""HEX as a module. It holds the settings, and applies the warm-up and the threshold's schedule."""

import warnings
from typing import Any, cast

import torch
from torch import Tensor

from hex_ssl.choices import Formulation, Reduction, Scale, ThresholdName
from hex_ssl.contrast import Settings
from hex_ssl.distributed import check_gathering
from hex_ssl.functional import NO_HIERARCHY, loss_of_views, loss_with_keys
from hex_ssl.losses.baseline import LossWithStatistics
from hex_ssl.thresholds import (
    AdaptiveThreshold,
    FixedThreshold,
    SupervisedThreshold,
    Threshold,
    check_labels_read,
    threshold_from,
)
from hex_ssl.validation import check_settings, check_whole


class HexLoss(LossWithStatistics):
    """The HEX loss as a module. See :func:`hex_ssl.functional.hex_loss` for the formula.

    With a warm-up or a threshold that changes with the epoch, call :meth:`set_epoch` at the start of each epoch.
    Without this call there is no warm-up, the threshold stays that of the first epoch, and the first forward warns. The
    epoch of such a loss is part of the state dict. Other losses do not store an epoch. A state dict without an epoch,
    for example from a run with another loss, can be loaded too.

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        threshold: A strategy of :mod:`hex_ssl.thresholds`, or its name: "adaptive", "step", "cosine", "supervised".
        formulation: "importance", "official", "decoupled", or "elimination", which leaves out the hierarchical
            negatives.
        beta: Concentration of the importance weights, at least 0.
        tau_plus: Probability that a hierarchical negative is a false negative, in [0, 1).
        warmup_epochs: Number of epochs at the start in which the loss is NT-Xent. The authors' recipes use 10.
        gather_distributed: Compare with the keys of all processes, and find the threshold over all anchors.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range.

    Source:
        HEX ("Hierarchical Emergence Exploitation", WACV 2025), supplement S7.3 and S7.4.

    Example:
        >>> import torch
        >>> criterion = HexLoss(temperature=0.2, warmup_epochs=1)
        >>> projections = torch.randn(2, 32, 16, requires_grad=True)
        >>> for epoch in range(2):
        ...     criterion.set_epoch(epoch)
        ...     criterion(*projections).backward()
        >>> criterion.statistics.undefined_anchors
        tensor(0.)
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        threshold: Threshold | ThresholdName = "adaptive",
        formulation: Formulation = "importance",
        beta: float = 1.0,
        tau_plus: float = 0.1,
        warmup_epochs: int = 0,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_settings(
            temperature=temperature,
            formulation=formulation,
            beta=beta,
            tau_plus=tau_plus,
            reduction=reduction,
            loss=type(self),
        )
        check_gathering(gather_distributed)
        check_whole("warmup_epochs", warmup_epochs)
        self.temperature = temperature
        self.formulation = formulation
        self.beta = beta
        self.tau_plus = tau_plus
        self.warmup_epochs = warmup_epochs
        self.gather_distributed = gather_distributed
        self.reduction = reduction
        self._epoch: int | None = None
        self.threshold = threshold

    @property
    def threshold(self) -> Threshold:
        """The strategy. It may be changed between two forwards, also by name."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: Threshold | ThresholdName) -> None:
        self._threshold = threshold_from(threshold)
        self._changes_with_epoch = self.warmup_epochs > 0 or self._threshold.scheduled
        self._awaits_epoch = self._changes_with_epoch
        self._enter(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch. Call it at the start of each epoch.

        Args:
            epoch: The epoch, counted from 0.

        Raises:
            TypeError: `epoch` is not a whole number.
            ValueError: It is negative.
        """
        check_whole("epoch", epoch)
        self._enter(epoch)

    def _enter(self, epoch: int | None) -> None:
        # The forward does not read the epoch itself, so that compiled code stays valid when it changes.
        self._epoch = epoch
        self._warming_up = epoch is not None and epoch < self.warmup_epochs
        kind, value = self.threshold.at(epoch or 0)
        self._reads_labels = kind == "labels"
        self._current_threshold = _constant(kind, value) if self.threshold.scheduled else self.threshold
        if epoch is not None:
            self._awaits_epoch = False

    def forward(self, z1: Tensor, z2: Tensor, *more_views: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of the projections of the views.

        Args:
            z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16.
            z2: Projections of the second views, like `z1`.
            *more_views: Further views, each like `z1`.
            labels: The (superclass) labels of the samples, integers [n]. Only the supervised threshold accepts them. -1
                is a label like any other. Give each sample without a label its own number.

        Returns:
            The loss, 0-d, or [V * n] for reduction "none". It is float64 for float64 inputs, else float32.

        Raises:
            TypeError, ValueError: As :func:`hex_ssl.functional.hex_loss`.
        """
        if self._awaits_epoch:
            self._warn_of_missing_epoch()
        threshold, settings = self._current()
        labels, views = self._read("labels", labels), [z1, z2, *more_views]
        loss, self._last.statistics = loss_of_views(views, threshold, settings, labels, self.gather_distributed)
        return loss

    def against_keys(
        self,
        anchors: Tensor,
        keys: Tensor,
        *,
        positives: Tensor,
        ignored_index: Tensor | None = None,
        own_negatives: Tensor | None = None,
        anchor_labels: Tensor | None = None,
        key_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss of anchors against separate keys, such as a queue. All keys but the ignored ones are negatives.

        Args:
            anchors: The anchors, [M, D], like `z1` of :meth:`forward`.
            keys: The keys, [N, D]. With `gather_distributed` they must be the same on each process.
            positives: The positive of each anchor, [M, D].
            ignored_index: The rows of `keys` that are no negatives of the anchor, [M] or [M, I], integers, different
                from each other. -1 for none: pad shorter lists with it.
            own_negatives: Further negatives of each anchor, [M, H, D], like `anchors`. No other anchor is compared with
                them. They have no labels. They get a gradient if they require one.
            anchor_labels: The labels of the anchors, integers [M]. Only the supervised threshold accepts them. -1 is a
                label like any other. Give an anchor without a label a number that no key has.
            key_labels: The labels of the keys, integers [N].

        Returns:
            The loss, 0-d, or [M] for reduction "none". During the warm-up it is InfoNCE.

        Raises:
            TypeError, ValueError: As :func:`hex_ssl.functional.hex_loss_with_keys`.

        Example:
            >>> queries, momentum_keys, queue = torch.randn(8, 16), torch.randn(8, 16), torch.randn(64, 16)
            >>> HexLoss(temperature=0.2).against_keys(queries, queue, positives=momentum_keys).shape
            torch.Size([])
        """
        if self._awaits_epoch:
            self._warn_of_missing_epoch()
        loss, self._last.statistics = loss_with_keys(
            anchors,
            keys,
            *self._current(),
            positives=positives,
            ignored_index=ignored_index,
            own_negatives=own_negatives,
            anchor_labels=self._read("anchor_labels", anchor_labels),
            key_labels=self._read("key_labels", key_labels),
            gather_distributed=self.gather_distributed,
        )
        return loss

    @property
    def warming_up(self) -> bool:
        """Whether the loss is in its warm-up, in which it is NT-Xent (InfoNCE)."""
        return self._warming_up

    def _current(self) -> tuple[Threshold, Settings]:
        """The threshold and the settings of this epoch."""
        # Only the importance formulation can express the NT-Xent of the warm-up.
        threshold = NO_HIERARCHY if self._warming_up else self._current_threshold
        formulation = "importance" if self._warming_up else self.formulation
        return threshold, Settings.of(
            threshold, 0, formulation, self.beta, self.tau_plus, self.temperature, self.reduction
        )

    def _read(self, name: str, labels: Tensor | None) -> Tensor | None:
        """The labels if the loss reads them in this epoch, else None. Callers may pass labels in every epoch."""
        if labels is not None and not self._reads_labels:
            check_labels_read(name, self.threshold)
        return labels if self._reads_labels and not self._warming_up else None

    def _warn_of_missing_epoch(self) -> None:
        self._awaits_epoch = False
        consequences = ["there is no warm-up"] if self.warmup_epochs > 0 else []
        if self.threshold.scheduled:
            consequences.append("the threshold stays that of epoch 0")
        _warn(f"HexLoss.set_epoch was never called: {' and '.join(consequences)}")

    def get_extra_state(self) -> Tensor:
        """The epoch for the state dict, -1 if it was never set."""
        return torch.tensor(-1 if self._epoch is None else self._epoch, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the epoch from a state dict."""
        epoch = int(state)
        self._enter(None if epoch < 0 else epoch)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self._changes_with_epoch:
            del destination[prefix + "_extra_state"]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: list[str], *others: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *others)
        # The state dict may come from a run without HEX or without a schedule. The next `set_epoch` sets the epoch.
        if prefix + "_extra_state" in missing:
            missing.remove(prefix + "_extra_state")

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return (
            f"temperature={self.temperature}, threshold={self.threshold}, formulation={self.formulation!r}, "
            f"beta={self.beta}, tau_plus={self.tau_plus}, warmup_epochs={self.warmup_epochs}, "
            f"gather_distributed={self.gather_distributed}, reduction={self.reduction!r}"
        )


def _constant(kind: str, value: float | Tensor) -> Threshold:
    """A strategy that is constant: that of one epoch."""
    if kind == "adaptive":
        return AdaptiveThreshold(float(value))
    if kind == "labels":
        return SupervisedThreshold()
    # The value is a tensor, so that compiled code stays valid when it changes.
    return FixedThreshold(torch.as_tensor(value, dtype=torch.float64, device="cpu"), cast(Scale, kind))


def _warn(text: str) -> None:
    # The caller of the module is above this function, two methods of the module, and two functions of nn.Module.
    warnings.warn(text, stacklevel=6)


# torch.compile cannot trace a warning. With this mark, it runs the function while tracing. The mark does what
# torch.compiler.assume_constant_result does. The public function would import torch._dynamo here, which takes seconds.
_warn._dynamo_marked_constant = True  # type: ignore[attr-defined]
