"""From checked arguments to the op: one batch of views, on one process or several, or anchors against other keys."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from hex_ssl.distributed import gather_counts, gather_rows, join_statistics, mean_over_processes
from hex_ssl.ops import evaluate, evaluate_in_transforms, row_quantiles
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import Threshold, threshold_from
from hex_ssl.validation import check_settings


class Settings(NamedTuple):
    """One loss of the family, in the op's words and order."""

    threshold: str
    threshold_value: float | Tensor
    formulation: str
    beta: float
    tau_plus: float
    temperature: float
    reduction: str

    @classmethod
    def of(
        cls,
        *,
        threshold: Threshold | str,
        epoch: int | None,
        formulation: str,
        beta: float,
        tau_plus: float,
        temperature: float,
        reduction: str,
    ) -> "Settings":
        """Checks the arguments and resolves the threshold's rule in this epoch.

        Raises:
            ValueError: One is out of its range, or the threshold needs an epoch and there is none.
        """
        check_settings(
            temperature=temperature, formulation=formulation, beta=beta, tau_plus=tau_plus, reduction=reduction
        )
        strategy = threshold_from(threshold)
        if strategy.scheduled and epoch is None:
            raise ValueError(f"expected `epoch` for {type(strategy).__name__}, which changes with it, but got None")
        kind, value = strategy.at(epoch or 0)
        return cls(kind, value, formulation, beta, tau_plus, temperature, reduction)


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
    epsilon: Tensor | None = None,
    offset: int = 0,
) -> tuple[Tensor, Statistics]:
    """Loss and statistics of the anchors. The pairing follows from what is given, as in `hex_ssl._core.evaluate`."""
    threshold, value, *others = settings  # torch 2.6 cannot compile `_replace`
    if isinstance(value, Tensor):
        epsilon, value = value, 0.0
    transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    loss, statistics, *_ = (evaluate_in_transforms if transformed else evaluate)(
        list(anchors),
        keys,
        positives,
        positive_index,
        ignored_index,
        anchor_labels,
        key_labels,
        epsilon,
        None,
        offset,
        threshold,
        value,
        *others,
        False,  # the op computes gradients wherever autograd records
    )
    return loss, Statistics(*statistics.unbind())


# Graphs are compiled without knowing the sizes of other processes' batches. (This is torch.compiler.disable,
# which would import torch._dynamo, seconds, with this package.)
@_disable_dynamo
def contrast_gathered(
    views: Sequence[Tensor], settings: Settings, anchor_labels: Tensor | None
) -> tuple[Tensor, Statistics]:
    """As :func:`contrast` of views, over the joined batch of all processes.

    Reductions "mean" and "sum" give each process a share: the mean over the processes is the joined batch's loss.
    """
    anchors = torch.cat(list(views))
    counts = gather_counts(anchors.shape[0], anchors.device)
    keys = gather_rows(anchors, counts)
    key_labels = None if anchor_labels is None else gather_rows(anchor_labels, counts)
    offset = sum(counts[: dist.get_rank()])
    epsilon = None
    if settings.threshold == "adaptive":
        quantiles = row_quantiles(list(views), keys, None, offset, settings.threshold_value)
        settings, epsilon = settings._replace(threshold="given"), mean_over_processes(quantiles)
    shares = settings._replace(reduction="none" if settings.reduction == "none" else "sum")
    loss, local = contrast(
        views,
        shares,
        keys=keys,
        anchor_labels=anchor_labels,
        key_labels=key_labels,
        epsilon=epsilon,
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
) -> tuple[Tensor, Statistics]:
    """As :func:`contrast` of the anchors of all processes, where each process has the same keys.

    Reductions "mean" and "sum" give each process a share, as :func:`contrast_gathered`.
    """
    epsilon = None
    if settings.threshold == "adaptive":
        quantiles = row_quantiles([anchors], keys, positives, 0, settings.threshold_value)
        settings, epsilon = settings._replace(threshold="given"), mean_over_processes(quantiles)
    loss, local = contrast(
        [anchors],
        settings._replace(reduction="none" if settings.reduction == "none" else "sum"),
        keys=keys,
        positives=positives,
        positive_index=positive_index,
        ignored_index=ignored_index,
        anchor_labels=anchor_labels,
        key_labels=key_labels,
        epsilon=epsilon,
    )
    return _share(loss, local, settings.reduction, anchors.shape[0])


def _share(loss: Tensor, local: Statistics, reduction: str, anchors: int) -> tuple[Tensor, Statistics]:
    """A process's share of the joined batch's loss, and the joined batch's statistics."""
    statistics, defined = join_statistics(local, anchors)
    processes = dist.get_world_size()
    if reduction == "mean":
        loss = loss * (processes / defined.clamp(min=1))
    elif reduction == "sum":
        loss = loss * processes
    return loss, statistics
