"""Gathering over processes: W processes compute the loss that one process computes on the joined batch.

Each process evaluates its own anchors against the keys of all processes, so every process holds a part of a key's
gradient. The backward of the gather therefore *sums* the gradients over the processes and keeps this process's rows.
The mean over the processes of their shares of the loss, and DDP's mean of the gradients, are then those of the joined
batch. A mean in the backward of the gather would be wrong.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

POSITIVE_SIMILARITY, NEGATIVE_SIMILARITY = 2, 3
"""The indices of `positive_similarity` and `negative_similarity` among the statistics."""


def is_distributed() -> bool:
    """Whether there is a process group with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_gathering(gather_distributed: bool) -> None:
    """Checks that this torch can gather, if a loss is to.

    Raises:
        ValueError: torch was built without torch.distributed.
    """
    if gather_distributed and not dist.is_available():
        raise ValueError(
            "expected a torch with torch.distributed for `gather_distributed=True`, but this torch was built without it"
        )


def gather_counts(count: int, device: torch.device) -> list[int]:
    """The `count` of every process, by rank.

    Args:
        count: This process's number of rows. The last batch may differ between processes.
        device: The device that the backend communicates on, which is the device of the rows to gather.

    Returns:
        W numbers. On a GPU this waits for the device, because shapes must be known on the host.
    """
    own = torch.tensor([count], dtype=torch.int64, device=device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return [int(each) for each in torch.cat(counts).tolist()]


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all processes, in the order of ranks. The backward sums the gradients over the processes.

    Args:
        rows: This process's rows, [counts[rank], ...].
        counts: The number of rows of each process, from :func:`gather_counts`.

    Returns:
        The gathered rows, [sum(counts), ...]. This process's rows start at row `sum(counts[:rank])`.
    """
    gathered: Tensor = _GatherRows.apply(rows, counts)  # type: ignore[no-untyped-call]
    return gathered


def gather_batches(*rows: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes, in the order of ranks. Without a process group, the rows unchanged.

    This is for losses that every process computes over the whole joined batch. The sum in the backward and DDP's mean
    of the gradients then cancel: the gradient is that of one process on the joined batch.

    Args:
        *rows: Tensors [n, ...] with the same n.

    Returns:
        The gathered tensors, each [sum of n, ...]. Their backward sums the gradients over the processes.

    Example:
        >>> import torch
        >>> gather_batches(torch.zeros(3, 2))[0].shape
        torch.Size([3, 2])
    """
    if not is_distributed():
        return rows
    counts = gather_counts(rows[0].shape[0], rows[0].device)
    return tuple(gather_rows(each, counts) for each in rows)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over the elements of `values` of all processes.

    Args:
        values: [M]. M may differ between processes.

    Returns:
        The mean, 0-d, the same on every process.
    """
    # The sum is in float64, so that the threshold hardly depends on the number of processes.
    total = torch.stack([values.double().sum(), values.new_tensor(values.numel(), dtype=torch.float64)])
    dist.all_reduce(total)
    return (total[0] / total[1]).to(values.dtype)


def join_statistics(
    statistics: Tensor, anchors: int, positives: Tensor | float = 1.0, negatives: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """The statistics of the joined batch.

    Args:
        statistics: The statistics of this process's anchors, [6], in the order of
            :class:`hex_ssl.statistics.Statistics`.
        anchors: This process's number of anchors.
        positives: This process's mean number of positives per anchor, if it may differ between processes.
        negatives: This process's mean number of negatives per anchor, if it may differ between processes.

    Returns:
        The statistics of the anchors of all processes, and the number of anchors that have a loss, 0-d.
    """
    *means, undefined = statistics.double().unbind()
    # All but the last are means over the anchors. The similarities are means over pairs: there may be none.
    counts = [torch.full_like(undefined, anchors) for _ in means]
    for index, pairs in ((POSITIVE_SIMILARITY, positives), (NEGATIVE_SIMILARITY, negatives)):
        counts[index] = torch.as_tensor(pairs, dtype=torch.float64, device=statistics.device) * anchors
    sums = [torch.where(count > 0, mean * count, 0.0) for mean, count in zip(means, counts, strict=True)]
    total = torch.stack([*sums, undefined, *counts])
    dist.all_reduce(total)
    (*sums, undefined), divisors = total[: len(means) + 1].unbind(), total[len(means) + 1 :].unbind()
    joined = torch.stack([*(each / count for each, count in zip(sums, divisors, strict=True)), undefined])
    return joined.to(statistics.dtype), (divisors[0] - undefined).to(statistics.dtype)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        rank = dist.get_rank()
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        # Collectives need equal shapes, so shorter blocks are padded.
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: rows.shape[0]] = rows
        blocks = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(blocks, padded)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (gradient,) = gradients
        # Copy, because the reduction is in place. Sum 16-bit types in float32, so that the sum is rounded once.
        total = gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True).contiguous()
        dist.all_reduce(total)
        return total[ctx.own].to(gradient.dtype), None
