"""Weighted k-nearest-neighbour classification of representations."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.train.evaluate.accuracy import ranks, superclass_scores, top_accuracies
from hex_ssl.train.evaluate.features import Features, check_finite
from hex_ssl.train.progress import followed

Distance = Literal["cosine", "euclidean"]

BLOCK_BYTES = 2**28
"""Maximum size of the similarities of a block of queries: 1,342 queries with a bank of 50,000 rows in float32."""

VOTE_BYTES = 2**27
"""Maximum size of the scores of a block of queries: 1,677 queries with 10,000 classes in float64."""

NEAREST = 1e-5
"""Added to a Euclidean distance, so that a neighbour at distance 0 has a finite vote."""


class Neighbours(NamedTuple):
    """The nearest rows of a bank to each query, the nearest first.

    Attributes:
        rows: int64 [M, k].
        closeness: Floating point [M, k]: the cosine if the distance is "cosine", minus the distance if it is
            "euclidean".
    """

    rows: Tensor
    closeness: Tensor


def nearest_neighbours(
    bank: Tensor, queries: Tensor, k: int = 20, distance: Distance = "cosine", block: int | None = None
) -> Neighbours:
    """The k nearest rows of the bank to each query, found in blocks of queries.

    Args:
        bank: Representations [N, F].
        queries: Representations [M, F] on the same device. All dtypes but float64 are computed in float32.
        k: Number of neighbours, at least 1. A smaller bank gives all its rows.
        distance: "cosine", or "euclidean" between the rows without normalisation.
        block: Number of queries at a time. None uses as many as fit into `BLOCK_BYTES`.

    Returns:
        The neighbours. Besides the inputs, this needs memory for a normalised, or centred, copy of each, and for
        `block` * N similarities.

    Raises:
        ValueError: A number or a name is out of range, the widths differ, or a row is not finite. With the cosine, a
            row with NaN would be the nearest neighbour of every query.

    Example:
        >>> nearest_neighbours(torch.eye(3), torch.tensor([[0.1, 0.9, 0.5]]), k=2).rows
        tensor([[1, 2]])
    """
    _check(bank, queries, k, distance)
    bank, queries = (each if each.dtype == torch.float64 else each.float() for each in (bank, queries))
    if distance == "cosine":
        bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    else:
        # Centring does not change the distances, and reduces rounding errors.
        centre = bank.mean(dim=0)
        bank, queries = bank - centre, queries - centre
    k = min(k, len(bank))
    # The distances of the neighbours found are computed from differences, [queries, k, F].
    widest = len(bank) if distance == "cosine" else max(len(bank), 2 * k * bank.shape[1])
    block = block or max(BLOCK_BYTES // (widest * bank.element_size()), 1)
    find = _nearest_by_cosine if distance == "cosine" else _nearest_by_distance
    blocks = queries.split(block)
    found = [find(bank, rows, k) for rows in followed(blocks, "nearest neighbours", len(blocks))]
    return Neighbours(torch.cat([each.rows for each in found]), torch.cat([each.closeness for each in found]))


def knn_scores(
    neighbours: Neighbours, labels: Tensor, classes: int, temperature: float = 0.07, distance: Distance = "cosine"
) -> Tensor:
    """The logarithm of the neighbours' votes for each class, -inf for a class without votes.

        cosine:     votes_c(q) = sum over the neighbours b of class c of exp(cos(q, b) / T)
        euclidean:  votes_c(q) = sum over the neighbours b of class c of 1 / (|q - b| + 1e-5)

    where T is `temperature`. The votes of "cosine" are divided by that of the nearest neighbour, which does not change
    their order.

    Args:
        neighbours: Neighbours of M queries.
        labels: The bank's classes, int64 [N].
        classes: C, more than the largest label.
        temperature: T, above 0. "euclidean" does not use it.
        distance: The distance by which the neighbours were found.

    Returns:
        float64 [M, C].

    Example:
        >>> neighbours = nearest_neighbours(torch.eye(3), torch.tensor([[1.0, 0.0, 0.0]]), k=3)
        >>> knn_scores(neighbours, torch.tensor([0, 1, 1]), classes=3, temperature=1.0).exp()
        tensor([[1.0000, 0.7358, 0.0000]], dtype=torch.float64)
    """
    closeness = neighbours.closeness.double()
    if distance == "cosine":
        # The largest is subtracted first, so that exp cannot overflow. A vote that underflows still counts.
        weights = ((closeness - closeness[:, :1]) / temperature).exp().clamp(min=torch.finfo(torch.float64).tiny)
    else:
        weights = 1 / (NEAREST - closeness)
    votes = weights.new_zeros(len(weights), classes)
    return votes.scatter_add_(1, labels[neighbours.rows], weights).log()


def knn_predict(
    bank: Features,
    queries: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    block: int | None = None,
    distance: Distance = "cosine",
) -> Tensor:
    """Predicts each query's class: its k nearest bank rows vote, and nearer rows have more weight.

    :func:`knn_scores` defines the votes. Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4; "euclidean":
        solo-learn.

    Args:
        bank: Representations [N, F] of any scale and their labels.
        queries: Representations [M, F] on the same device.
        k: Number of neighbours that vote, at least 1. All rows of a smaller bank vote.
        temperature: T, above 0.
        block: Number of queries at a time, which needs memory for `block` * N similarities. None uses as many as fit
            into `BLOCK_BYTES`.
        distance: "cosine" or "euclidean".

    Returns:
        int64 [M].

    Raises:
        ValueError: `k`, `temperature` or `distance` is out of range, the widths differ, or a row is not finite.

    Example:
        >>> bank = Features(torch.eye(2), torch.tensor([3, 5]))
        >>> knn_predict(bank, torch.tensor([[0.9, 0.1], [0.2, 0.4]]), k=1)
        tensor([3, 5])
    """
    _check_temperature(temperature)
    neighbours = nearest_neighbours(bank.h, queries, k, distance, block)
    classes = int(bank.labels.max()) + 1
    scores = (
        knn_scores(part, bank.labels, classes, temperature, distance) for _, part in _vote_blocks(neighbours, classes)
    )
    return torch.cat([each.argmax(dim=1) for each in scores])


def knn_accuracy(
    bank: Features, test: Features, k: int = 20, temperature: float = 0.07, distance: Distance = "cosine"
) -> float:
    """The fraction of `test` that `knn_predict` classifies correctly.

    Example:
        >>> bank = Features(torch.eye(2), torch.tensor([3, 5]))
        >>> knn_accuracy(bank, Features(torch.eye(2), torch.tensor([3, 3])), k=1)
        0.5
    """
    return float((knn_predict(bank, test.h, k, temperature, distance=distance) == test.labels).double().mean())


def knn_accuracies(
    neighbours: Neighbours,
    bank_labels: Tensor,
    labels: Tensor,
    classes: int,
    superclasses: Tensor | None = None,
    k: int = 20,
    temperature: float = 0.07,
    distance: Distance = "cosine",
) -> dict[str, float]:
    """Top-1 and top-5 accuracy of the classes, and of the superclasses if there are any.

    Args:
        neighbours: Neighbours of M queries. The first `k` vote.
        bank_labels: The bank's classes, int64 [N].
        labels: The queries' classes, int64 [M]. The bank may lack some of them.
        classes: C.
        superclasses: int64 [C], each class's superclass.
        k: Number of neighbours that vote.
        temperature: T, above 0.
        distance: The distance by which the neighbours were found.

    Returns:
        `top1`, `top5`, `superclass_top1`, `superclass_top5`, in [0, 1]. Top-5 is left out for up to 5 classes.

    Raises:
        ValueError: `k` or `temperature` is out of range.

    Example:
        >>> neighbours = nearest_neighbours(torch.eye(2), torch.eye(2), k=1)
        >>> knn_accuracies(neighbours, torch.tensor([0, 1]), torch.tensor([0, 0]), classes=2, k=1)
        {'top1': 0.5}
    """
    _check_temperature(temperature)
    if k < 1:
        raise ValueError(f"expected `k` to be at least 1, but got {k}")
    voting = Neighbours(neighbours.rows[:, :k], neighbours.closeness[:, :k])
    true, true_above, above = [], [], 0
    for rows, part in _vote_blocks(voting, classes):
        scores = knn_scores(part, bank_labels, classes, temperature, distance)
        true.append(ranks(scores, labels[rows]))
        if superclasses is not None:
            superclasses = superclasses.to(labels.device)
            super_scores = superclass_scores(scores, superclasses)
            above = super_scores.shape[1]
            true_above.append(ranks(super_scores, superclasses[labels[rows]]))
    figures = top_accuracies(torch.cat(true), classes)
    return figures | (top_accuracies(torch.cat(true_above), above, "superclass_") if true_above else {})


def _check(bank: Tensor, queries: Tensor, k: int, distance: str) -> None:
    if k < 1:
        raise ValueError(f"expected `k` to be at least 1, but got {k}")
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f'expected `distance` to be "cosine" or "euclidean", but got "{distance}"')
    if queries.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"expected `queries` to have shape [M, {bank.shape[1]}] like the bank, but got {list(queries.shape)}"
        )
    check_finite("`bank`", bank)
    check_finite("`queries`", queries)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"expected `temperature` to be above 0, but got {temperature}")


def _nearest_by_cosine(bank: Tensor, queries: Tensor, k: int) -> Neighbours:
    closeness, rows = (queries @ bank.T).topk(k, dim=1)
    return Neighbours(rows, closeness)


def _nearest_by_distance(bank: Tensor, queries: Tensor, k: int) -> Neighbours:
    # The order is that of |q - b|^2 - |q|^2 = |b|^2 - 2 q.b, one product. The distances come from the differences.
    found = torch.addmm(bank.square().sum(dim=1), queries, bank.T, alpha=-2).topk(k, dim=1, largest=False)
    distances = (queries[:, None] - bank[found.indices]).norm(dim=2)
    sorted_distances, order = distances.sort(dim=1, stable=True)
    return Neighbours(found.indices.gather(1, order), -sorted_distances)


def _vote_blocks(neighbours: Neighbours, classes: int) -> Iterator[tuple[slice, Neighbours]]:
    """Blocks of queries. With 10,000 classes, the scores of all queries would take more memory than anything else."""
    block = max(VOTE_BYTES // (8 * classes), 1)
    for start in range(0, len(neighbours.rows), block):
        rows = slice(start, start + block)
        yield rows, Neighbours(neighbours.rows[rows], neighbours.closeness[rows])
