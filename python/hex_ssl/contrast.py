"""Calls the op with checked arguments: for the views of one batch, two towers, or anchors with separate keys."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from hex_ssl.dispatch import join_directions
from hex_ssl.distributed import gather_counts, gather_rows, join_statistics, mean_over_processes
from hex_ssl.operands import Operands, count_named
from hex_ssl.ops import evaluate_call, row_quantiles
from hex_ssl.thresholds import Threshold, check_labels_read
from hex_ssl.validation import check_integers, check_ranges, check_types


class Settings(NamedTuple):
    """The settings of a loss, with the names and in the order of the op."""

    threshold_rule: str
    threshold_value: float | Tensor
    formulation: str
    beta: float
    tau_plus: float
    temperature: float | Tensor
    reduction: str

    @classmethod
    def of(
        cls,
        threshold: Threshold,
        epoch: int | None,
        formulation: str,
        beta: float,
        tau_plus: float,
        temperature: float | Tensor,
        reduction: str,
    ) -> "Settings":
        """Finds the threshold's rule for this epoch. The ranges are checked later, by the evaluation.

        Raises:
            TypeError: A number or a name has the wrong type.
            ValueError: The threshold needs an epoch, but `epoch` is None, or the temperature is a tensor of the wrong
                shape or dtype.
        """
        check_types(temperature, formulation, beta, tau_plus, reduction)
        if threshold.scheduled and epoch is None:
            raise ValueError(f"expected `epoch` for {type(threshold).__name__}, which changes with it, but got None")
        rule, value = threshold.at(epoch or 0)
        return cls(rule, value, formulation, beta, tau_plus, temperature, reduction)

    def check(self) -> None:
        """Checks the ranges before any communication, so that an error leaves no other process waiting.

        Raises:
            ValueError: A setting is out of its range.
        """
        check_ranges(self.temperature, self.formulation, self.beta, self.tau_plus, self.reduction)


def read_labels(
    settings: Settings, threshold: Threshold, name: str, labels: Tensor | None, rows: Tensor
) -> Tensor | None:
    """The labels of the rows if the threshold reads labels, else None."""
    if settings.threshold_rule != "labels":
        if labels is not None:
            check_labels_read(name, threshold)
        return None
    if labels is None:
        raise ValueError(f"expected `{name}` for the supervised threshold, but got None")
    return check_integers(name, labels, rows.shape[0], rows)


def rows_apart(positives: Tensor | None, own_negatives: Tensor | None) -> Tensor | None:
    """The positives [M, D] and own negatives [M, H, D] of each anchor as the operand `positives`, [M * R, D]."""
    if own_negatives is None or own_negatives.shape[1] == 0:
        return positives
    rows = own_negatives if positives is None else torch.cat([positives.unsqueeze(1), own_negatives], 1)
    return rows.flatten(0, 1)


def contrast(
    anchors: Sequence[Tensor],
    settings: Settings,
    *,
    keys: Tensor | None = None,
    positives: Tensor | None = None,
    positive_index: Tensor | None = None,
    ignored_index: Tensor | None = None,
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    threshold: Tensor | None = None,
    weights: Tensor | None = None,
    offset: int = 0,
    towers: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss and statistics [6] of the anchors. The tensors are those of `Operands`, and determine the pairing."""
    value = settings.threshold_value
    if isinstance(value, Tensor):
        threshold, value = value, 0.0
    temperature, number = None, settings.temperature
    if isinstance(number, Tensor):
        temperature, number = number, 1.0
    operands = Operands(
        list(anchors),
        keys,
        positives,
        positive_index,
        ignored_index,
        anchor_labels,
        key_labels,
        threshold,
        weights,
        temperature,
        offset,
        settings.threshold_rule,
        value,
        settings.formulation,
        settings.beta,
        settings.tau_plus,
        number,
        settings.reduction,
        towers,
        False,  # gradients are computed wherever autograd records
    )
    return evaluate_call(operands)


# torch.compile must not trace this: the batch sizes of other processes are unknown at compile time. `_disable_dynamo`
# does what torch.compiler.disable does. The public function would import torch._dynamo here, which takes seconds.
@_disable_dynamo
def contrast_gathered(
    views: Sequence[Tensor], settings: Settings, anchor_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Like :func:`contrast` of views, over the joined batch of all processes.

    With reduction "mean" or "sum" each process gets a share of the loss. The mean of the shares over the processes is
    the loss of the joined batch.
    """
    settings.check()
    anchors = torch.cat(list(views))
    counts = gather_counts(anchors.shape[0], anchors.device)
    keys = gather_rows(anchors, counts)
    key_labels = None if anchor_labels is None else gather_rows(anchor_labels, counts)
    offset = sum(counts[: dist.get_rank()])
    threshold = None
    if settings.threshold_rule == "adaptive":
        quantiles = row_quantiles(list(views), keys, None, offset, settings.threshold_value)
        settings, threshold = settings._replace(threshold_rule="given"), mean_over_processes(quantiles)
    shares = settings._replace(reduction="none" if settings.reduction == "none" else "sum")
    loss, local = contrast(
        views,
        shares,
        keys=keys,
        anchor_labels=anchor_labels,
        key_labels=key_labels,
        threshold=threshold,
        offset=offset,
    )
    positives = len(views) - 1 + local[1] if settings.formulation == "supervised" else 1.0
    return _share(loss, local, settings.reduction, anchors.shape[0], positives)


@_disable_dynamo
def contrast_with_shared_keys(
    anchors: Tensor,
    settings: Settings,
    *,
    keys: Tensor,
    positives: Tensor | None,
    positive_index: Tensor | None,
    ignored_index: Tensor | None,
    anchor_labels: Tensor | None,
    key_labels: Tensor | None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Like :func:`contrast` of the anchors of all processes, if each process has the same keys.

    With reduction "mean" or "sum" each process gets a share of the loss, as in :func:`contrast_gathered`. With
    `weights` the reduction is "sum".
    """
    settings.check()
    threshold = None
    if settings.threshold_rule == "adaptive":
        quantiles = row_quantiles([anchors], keys, positives, 0, settings.threshold_value)
        settings, threshold = settings._replace(threshold_rule="given"), mean_over_processes(quantiles)
    loss, local = contrast(
        [anchors],
        settings._replace(reduction="none" if settings.reduction == "none" else "sum"),
        keys=keys,
        positives=positives,
        positive_index=positive_index,
        ignored_index=ignored_index,
        anchor_labels=anchor_labels,
        key_labels=key_labels,
        threshold=threshold,
        weights=weights,
    )
    own = 0 if positives is None else positives.shape[0] // anchors.shape[0] - (positive_index is None)
    # The processes name different numbers of keys. All else that decides how many negatives there are is the same.
    named = count_named(positive_index, ignored_index).double().mean()
    return _share(loss, local, settings.reduction, anchors.shape[0], negatives=keys.shape[0] + own - named)


def _share(
    loss: Tensor,
    local: Tensor,
    reduction: str,
    anchors: int,
    positives: Tensor | float = 1.0,
    negatives: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """This process's share of the loss of the joined batch, and the statistics of the joined batch."""
    statistics, defined = join_statistics(local, anchors, positives, negatives)
    processes = dist.get_world_size()
    if reduction == "mean":
        loss = loss * (processes / defined.clamp(min=1))
    elif reduction == "sum":
        loss = loss * processes
    return loss, statistics


@_disable_dynamo
def contrast_towers_gathered(
    z1: Tensor, z2: Tensor, settings: Settings, labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Like :func:`contrast` of two towers: compares each row with the other tower's rows of all processes.

    With reduction "mean" or "sum" each process gets a share of the loss, as in :func:`contrast_gathered`.
    """
    # `dispatch._both_directions` has two directions, too, but shares only `join_directions` with this: it runs below
    # autograd, and so adds and divides the gradients itself. Here autograd differentiates through the gathered keys.
    settings.check()
    rows = z1.shape[0]
    counts = gather_counts(rows, z1.device)
    index = torch.arange(rows, device=z1.device)[:, None] + sum(counts[: dist.get_rank()])
    key_labels = None if labels is None else gather_rows(labels, counts)
    directions = [(z1, gather_rows(z2, counts)), (z2, gather_rows(z1, counts))]
    threshold = None
    if settings.threshold_rule == "adaptive":
        value = settings.threshold_value
        quantiles = [row_quantiles([anchors], keys, None, 0, value) for anchors, keys in directions]
        settings, threshold = settings._replace(threshold_rule="given"), mean_over_processes(torch.cat(quantiles))
    shares = settings._replace(reduction="none" if settings.reduction == "none" else "sum")
    found = [
        contrast(
            [anchors],
            shares,
            keys=keys,
            positive_index=index,
            anchor_labels=labels,
            key_labels=key_labels,
            threshold=threshold,
        )
        for anchors, keys in directions
    ]
    there, back = found
    loss, statistics = join_directions(there, back, settings.reduction == "none")
    return _share(loss, statistics, settings.reduction, 2 * rows)
