"""Weighted k-nearest-neighbour classification of representations."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.evaluate.features import Features


def knn_predict(bank: Features, queries: Tensor, k: int = 20, temperature: float = 0.07, block: int = 4096) -> Tensor:
    """Each query's class: its k most similar bank rows vote, the more similar with the greater weight.

        score_c(q) = sum over the k nearest b with label c of exp(cos(q, b) / T)

    with q -> `queries`, b -> `bank`, T -> `temperature`. Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4.

    Args:
        bank: Representations [N, F] of any scale and their labels.
        queries: Representations [M, F] on the same device.
        k: Neighbours that vote, at least 1; a smaller bank votes as a whole.
        temperature: T, above 0.
        block: Queries at a time: memory for `block` * N similarities.

    Returns:
        int64 [M].

    Raises:
        ValueError: `k` or `temperature` is out of its range, or the widths differ.

    Example:
        >>> bank = Features(torch.eye(2), torch.tensor([3, 5]))
        >>> knn_predict(bank, torch.tensor([[0.9, 0.1], [0.2, 0.4]]), k=1)
        tensor([3, 5])
    """
    if k < 1:
        raise ValueError(f"expected `k` to be at least 1, but got {k}")
    if not temperature > 0:
        raise ValueError(f"expected `temperature` to be above 0, but got {temperature}")
    if queries.ndim != 2 or queries.shape[1] != bank.h.shape[1]:
        raise ValueError(
            f"expected `queries` to have shape [M, {bank.h.shape[1]}] like the bank, but got {list(queries.shape)}"
        )
    classes = int(bank.labels.max()) + 1
    unit_bank = F.normalize(bank.h, dim=1)
    predictions = []
    for rows in F.normalize(queries, dim=1).split(block):
        similarity, nearest = (rows @ unit_bank.T).topk(min(k, len(unit_bank)), dim=1)
        # The largest similarity is taken off first: the vote stays the same, and exp cannot overflow.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        scores = weights.new_zeros(len(rows), classes).scatter_add_(1, bank.labels[nearest], weights)
        predictions.append(scores.argmax(dim=1))
    return torch.cat(predictions)


def knn_accuracy(bank: Features, test: Features, k: int = 20, temperature: float = 0.07) -> float:
    """The share of `test` that `knn_predict` classifies correctly.

    Example:
        >>> bank = Features(torch.eye(2), torch.tensor([3, 5]))
        >>> knn_accuracy(bank, Features(torch.eye(2), torch.tensor([3, 3])), k=1)
        0.5
    """
    return float((knn_predict(bank, test.h, k, temperature) == test.labels).double().mean())
