"""From checked arguments to the op: one batch of views, on one process or several, or anchors against other keys."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from hex_ssl.distributed import gather_counts, gather_rows, join_statistics, mean_over_processes
from hex_ssl.operands import Operands
from hex_ssl.ops import evaluate_call, row_quantiles
from hex_ssl.thresholds import Threshold
from hex_ssl.validation import check_settings, check_types


class Settings(NamedTuple):
    """One loss of the family, in the op's words and order."""

    threshold_rule: str
    threshold_value: float | Tensor
    formulation: str
    beta: float
    tau_plus: float
    temperature: float
    reduction: str

    @classmethod
    def of(
        cls,
        threshold: Threshold,
        epoch: int | None,
        formulation: str,
        beta: float,
        tau_plus: float,
        temperature: float,
        reduction: str,
    ) -> "Settings":
        """Resolves the threshold's rule in this epoch. The evaluation checks the ranges.

        Raises:
            TypeError: A number is none.
            ValueError: The threshold needs an epoch, and there is none.
        """
        check_types(temperature, formulation, beta, tau_plus, reduction)
        if threshold.scheduled and epoch is None:
            raise ValueError(f"expected `epoch` for {type(threshold).__name__}, which changes with it, but got None")
        rule, value = threshold.at(epoch or 0)
        return cls(rule, value, formulation, beta, tau_plus, temperature, reduction)

    def check(self) -> None:
        """Checks the ranges before an evaluation does: other processes wait for this one.

        Raises:
            ValueError: A setting is out of its range.
        """
        check_settings(
            temperature=self.temperature,
            formulation=self.formulation,
            beta=self.beta,
            tau_plus=self.tau_plus,
            reduction=self.reduction,
        )


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
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Loss and statistics [6] of the anchors. The pairing follows from what is given, as in `Operands`."""
    value = settings.threshold_value
    if isinstance(value, Tensor):
        threshold, value = value, 0.0
    operands = Operands(
        list(anchors),
        keys,
        positives,
        positive_index,
        ignored_index,
        anchor_labels,
        key_labels,
        threshold,
        None,
        offset,
        settings.threshold_rule,
        value,
        settings.formulation,
        settings.beta,
        settings.tau_plus,
        settings.temperature,
        settings.reduction,
        False,  # gradients are computed wherever autograd records
    )
    return evaluate_call(operands)


# Graphs are compiled without knowing the sizes of other processes' batches. (This is torch.compiler.disable,
# which would import torch._dynamo, seconds, with this package.)
@_disable_dynamo
def contrast_gathered(
    views: Sequence[Tensor], settings: Settings, anchor_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As :func:`contrast` of views, over the joined batch of all processes.

    Reductions "mean" and "sum" give each process a share: the mean over the processes is the joined batch's loss.
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
    return _share(loss, local, settings.reduction, anchors.shape[0])


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
) -> tuple[Tensor, Tensor]:
    """As :func:`contrast` of the anchors of all processes, where each process has the same keys.

    Reductions "mean" and "sum" give each process a share, as :func:`contrast_gathered`.
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
    )
    return _share(loss, local, settings.reduction, anchors.shape[0])


def _share(loss: Tensor, local: Tensor, reduction: str, anchors: int) -> tuple[Tensor, Tensor]:
    """A process's share of the joined batch's loss, and the joined batch's statistics."""
    statistics, defined = join_statistics(local, anchors)
    processes = dist.get_world_size()
    if reduction == "mean":
        loss = loss * (processes / defined.clamp(min=1))
    elif reduction == "sum":
        loss = loss * processes
    return loss, statistics
