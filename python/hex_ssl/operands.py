"""The one list of what a call of the loss computes from: its tensors and its settings."""

import typing
from typing import NamedTuple

import torch
from torch import Tensor

# Not that of collections.abc: torch 2.6 infers no schema from it.
Sequence = typing.Sequence


class Operands(NamedTuple):
    """The operands of one evaluation, in the order of the operator's schema. `src/operands.rs` is its counterpart.

    M anchors are the rows of all views together; N keys are `keys`, or the anchors themselves.

    Attributes:
        views: The anchors, [n, D] each, all of one dtype and on one device.
        keys: [N, D]. None: the anchors are the keys.
        positives: Each anchor's positive where it is not among the keys, [M, D].
        positive_index: Each anchor's positives as rows of `keys`, int64 [M, P].
        ignored_index: The row of `keys` that is no negative of the anchor, int64 [M]; -1 for none.
        anchor_labels: int64 [M], for the rule "labels".
        key_labels: int64 [N], for the rule "labels" with `keys`.
        threshold: The threshold itself, 0-d, for the rule "given".
        weights: The loss is sum(weights * loss of the anchor), [M], whatever the reduction.
        temperature: The temperature as a tensor, 0-d, in place of `temperature_value`.
        offset: The row of `keys` at which the views start, where they are among the keys.
        threshold_rule: "adaptive", "cosine", "minmax", "labels" or "given".
        threshold_value: The quantile, or the threshold in its scale.
        formulation: "importance", "official", "decoupled" or "supervised".
        beta: At least 0.
        tau_plus: In [0, 1).
        temperature_value: Above 0.
        reduction: "mean", "sum" or "none".
        towers: Two views are compared with each other alone: the positive of row i of one is row i of the other, its
            negatives are the other's other rows.
        want_gradient: Whether to compute the gradient for the anchors.
        want_keys_gradient: With `want_gradient`: also the gradient for the keys.
        want_positives_gradient: With `want_gradient`: also the gradient for the positives.
        want_temperature_gradient: With `want_gradient`: also the derivative by the temperature.
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
    # torch leaves out what is equal to its default.
    want_keys_gradient: bool = False
    want_positives_gradient: bool = False
    want_temperature_gradient: bool = False

    @property
    def anchors(self) -> int:
        """M, the number of anchors."""
        return len(self.views) * self.views[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic and of all results."""
        return torch.float64 if self.views[0].dtype == torch.float64 else torch.float32

    @property
    def one_loss_per_anchor(self) -> bool:
        """Whether the loss is [M]: its gradient then depends on `grad_output`, and the backward computes it."""
        return self.reduction == "none" and self.weights is None


def quantile_operands(
    views: Sequence[Tensor], keys: Tensor | None, positives: Tensor | None, offset: int, quantile: float
) -> Operands:
    """The operands of row quantiles: the other settings are not read."""
    index = None
    if len(views) == 1 and keys is not None and positives is None:
        # Anchors that are no views of each other have positives among the keys. Which does not matter to a quantile.
        index = torch.zeros((views[0].shape[0], 1), dtype=torch.int64, device=views[0].device)
    selectors = (None,) * 6
    head = (views, keys, positives, index, *selectors, offset)
    return Operands._make(
        (*head, "adaptive", quantile, "decoupled", 0.0, 0.0, 1.0, "none", False, False, *(False,) * 3)
    )
