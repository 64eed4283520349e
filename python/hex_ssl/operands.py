"""The operands of a call of the loss: its tensors and its settings."""

import typing
from typing import NamedTuple

import torch
from torch import Tensor

# torch 2.6 cannot infer a schema from collections.abc.Sequence.
Sequence = typing.Sequence


class Operands(NamedTuple):
    """The operands of one evaluation, in the order of the operator's schema. `src/operands.rs` is its counterpart.

    The M anchors are the rows of all views. The N keys are `keys`, or the anchors themselves.

    Attributes:
        views: The anchors, [n, D] each, with the same dtype and device.
        keys: The keys, [N, D]. None if the anchors are the keys.
        positives: Rows that are compared with one anchor alone, [M * R, D], R for each anchor: the anchor's positive,
            unless `positive_index` names it, and then its own negatives.
        positive_index: The positives of each anchor as rows of `keys`, int64 [M, P].
        ignored_index: The rows of `keys` that are neither positives nor negatives of the anchor, int64 [M, I], padded
            with -1.
        anchor_labels: The labels of the anchors for the rule "labels", int64 [M].
        key_labels: The labels of the keys for the rule "labels" with `keys`, int64 [N].
        threshold: The threshold for the rule "given", 0-d. On the CPU it may also replace `threshold_value` for the
            rules "cosine" and "minmax".
        weights: The weights of the anchors, [M]. If given, the loss is the sum of weight * loss of the anchor, for
            every reduction.
        temperature: The temperature as a tensor, 0-d. It replaces `temperature_value`.
        offset: The row of `keys` at which the views start, if they are among the keys.
        threshold_rule: "adaptive", "cosine", "minmax", "margin", "relative_margin", "labels" or "given".
        threshold_value: The quantile for the rule "adaptive", the threshold for "cosine" and "minmax", the margin for
            "margin" and "relative_margin".
        formulation: "importance", "official", "decoupled", "elimination" or "supervised".
        beta: At least 0.
        tau_plus: In [0, 1).
        temperature_value: Above 0.
        reduction: "mean", "sum" or "none".
        towers: Whether the two views are compared only with each other. The positive of row i of one view is then row i
            of the other view, and its negatives are the other rows of that view.
        want_gradient: Whether to compute the gradient for the anchors.
        want_keys_gradient: Whether to compute the gradient for the keys. Needs `want_gradient`.
        want_positives_gradient: Whether to compute the gradient for the positives. Needs `want_gradient`.
        want_temperature_gradient: Whether to compute the derivative by the temperature. Needs `want_gradient`.
    """

    views: Sequence[Tensor]
    keys: Tensor | None
    positives: Tensor | None
    positive_index: Tensor | None
    ignored_index: Tensor | None
    anchor_labels: Tensor | None
    key_labels: Tensor | None
    threshold: Tensor | None
    weights: Tensor | None
    temperature: Tensor | None
    offset: int
    threshold_rule: str
    threshold_value: float
    formulation: str
    beta: float
    tau_plus: float
    temperature_value: float
    reduction: str
    towers: bool
    want_gradient: bool
    # torch leaves out arguments that are equal to their defaults.
    want_keys_gradient: bool = False
    want_positives_gradient: bool = False
    want_temperature_gradient: bool = False

    @property
    def anchors(self) -> int:
        """M, the number of anchors."""
        return len(self.views) * self.views[0].shape[0]

    @property
    def rows_apart(self) -> int:
        """R, the number of rows that are compared with one anchor alone."""
        return 0 if self.positives is None else self.positives.shape[0] // max(self.anchors, 1)

    @property
    def own_negatives(self) -> int:
        """H, the number of negatives among the rows that are compared with one anchor alone."""
        return self.rows_apart - (self.positives is not None and self.positive_index is None)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic and of all results."""
        return torch.float64 if self.views[0].dtype == torch.float64 else torch.float32

    @property
    def one_loss_per_anchor(self) -> bool:
        """Whether the loss is [M]. The backward then computes the gradient, because it depends on `grad_output`."""
        return self.reduction == "none" and self.weights is None


def count_named(*lists: Tensor | None) -> Tensor:
    """The number of keys that each anchor names.

    Args:
        lists: Keys that the anchors name, int64 [M, any number], or None. -1 for none.

    Returns:
        The numbers, [M, 1]. A key that an anchor names twice counts once, as on GPUs nobody checks that keys differ. If
        there are no lists, 0, 0-d.
    """
    given = [each for each in lists if each is not None]
    if not given:
        return torch.zeros(())
    none = given[0].new_full((given[0].shape[0], 1), -1)
    named = torch.cat([none, *given], 1).clamp(min=-1).sort(1).values
    return (named.diff(dim=1) > 0).sum(1, keepdim=True)


def quantile_operands(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Operands:
    """The operands for row quantiles. They do not use the other settings."""
    index = None
    if len(views) == 1 and keys is not None and positives is None:
        # These anchors have positives among the keys. A quantile does not depend on which keys they are.
        index = torch.zeros((views[0].shape[0], 1), dtype=torch.int64, device=views[0].device)
    selectors = (None,) * 6
    head = (views, keys, positives, index, *selectors, offset)
    return Operands._make(
        (*head, "adaptive", quantile, "decoupled", 0.0, 0.0, 1.0, "none", False, False, *(False,) * 3)
    )
