"""Losses for two towers, such as images and texts: CLIP's symmetric loss and InfoNCE in one direction."""

import math
from typing import Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from hex_ssl.contrast import Settings, contrast, contrast_towers_gathered, contrast_with_shared_keys, read_labels
from hex_ssl.distributed import gather_counts, gather_rows, is_distributed
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import NO_HIERARCHY, Threshold, threshold_from
from hex_ssl.validation import check_integers, check_like, check_rows, check_views


@overload
def clip_loss(
    z1: Tensor, z2: Tensor, *, temperature: float | Tensor = ..., threshold: Threshold | str = ...,
    formulation: str = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: str = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def clip_loss(
    z1: Tensor, z2: Tensor, *, temperature: float | Tensor = ..., threshold: Threshold | str = ...,
    formulation: str = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: str = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
def clip_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    threshold: Threshold | str = NO_HIERARCHY,
    formulation: str = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    labels: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    epoch: int | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    """CLIP's symmetric loss of two towers: the mean of InfoNCE from z1 to z2 and from z2 to z1.

    Row i of one tower is the positive of row i of the other tower. The negatives of a row are the other rows of the
    other tower. Rows of the same tower are never compared. With the cosine similarities c_ij of row i of z1 and row j
    of z2::

        L = -1 / (2 N) * sum_i ( log softmax_j(c_ij / temperature)_i + log softmax_j(c_ji / temperature)_i )

    The kernels compute both directions in one evaluation. With a threshold, the hierarchical negatives of each row have
    separate weights, as in :func:`hex_ssl.functional.hex_loss`.

    Args:
        z1: Embeddings of one tower, [N, D], float64, float32, bfloat16 or float16, at any scale. No row may be all
            zeros.
        z2: Embeddings of the other tower, like `z1`.
        temperature: A number above 0, or a tensor of shape [] on the device of the embeddings. The tensor gets a
            gradient if it requires one. CLIP's temperature is `1 / logit_scale.exp()`.
        threshold: As for :func:`hex_ssl.functional.hex_loss`. By default there are no hierarchical negatives.
        formulation: "importance", "official" or "decoupled".
        beta: At least 0.
        tau_plus: In [0, 1).
        labels: The labels of the pairs, integers [N]. Only the supervised threshold accepts them.
        reduction: "mean" over both directions, "sum", or "none".
        gather_distributed: Compare with the rows of the other tower of all processes. With reduction "mean" or "sum",
            the mean of the losses over the processes equals the loss of one process on the joined batch.
        epoch: The epoch, counted from 0. Thresholds that change with the epoch need it.
        return_statistics: Also return the statistics.

    Returns:
        The loss, 0-d, or [2 N] for reduction "none", first for the rows of `z1`, then for those of `z2`. With
        `return_statistics`, the loss and its :class:`Statistics`.

    Raises:
        TypeError: An embedding is not a tensor.
        ValueError: As :func:`hex_ssl.functional.hex_loss`.

    Source:
        CLIP (Radford et al. 2021, arXiv 2103.00020), figure 3.

    Example:
        >>> import torch
        >>> images, texts = torch.eye(4, requires_grad=True), torch.eye(4)
        >>> logit_scale = torch.zeros((), requires_grad=True)
        >>> clip_loss(images, texts, temperature=1 / logit_scale.exp())  # log(e + 3) - 1
        tensor(0.7437, grad_fn=...)
    """
    strategy = threshold_from(threshold)
    settings = Settings.of(strategy, epoch, formulation, beta, tau_plus, temperature, reduction)
    loss, statistics = loss_of_towers(z1, z2, strategy, settings, labels, gather_distributed)
    return (loss, Statistics(*statistics.unbind())) if return_statistics else loss


def loss_of_towers(
    z1: Tensor, z2: Tensor, threshold: Threshold, settings: Settings, labels: Tensor | None, gather_distributed: bool
) -> tuple[Tensor, Tensor]:
    """:func:`clip_loss` with :class:`Settings`. Returns the loss and the statistics [6]."""
    check_views([z1, z2])
    labels = read_labels(settings, threshold, "labels", labels, z1)
    if gather_distributed and is_distributed():
        return contrast_towers_gathered(z1, z2, settings, labels)
    return contrast([z1, z2], settings, anchor_labels=None if labels is None else labels.repeat(2), towers=True)


def infonce_loss(
    anchors: Tensor,
    keys: Tensor,
    *,
    positive_index: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    weights: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """InfoNCE in one direction: the positives of each anchor are among the keys.

    This function L2-normalises the rows. With the cosine similarities c_ij of anchors and keys, and P(i) the positives
    of anchor i::

        L_i  = mean_{p in P(i)} L_ip
        L_ip = -log( exp(s_ip) / (exp(s_ip) + sum_{n not in P(i)} exp(s_in)) ),  s_ij = c_ij / temperature

    To use hard negatives, append them to the keys: `keys=torch.cat([positives, hard_negatives])`. Use
    :func:`hex_ssl.functional.hex_loss_with_keys` for positives that are not among the keys, for a queue of negatives,
    and for weighted hierarchical negatives.

    Args:
        anchors: Queries, [M, D], float64, float32, bfloat16 or float16, at any scale. No row may be all zeros.
        keys: [N, D], with the dtype and device of `anchors`. Without `positive_index`, N must be at least M.
        positive_index: The positives of each anchor as rows of `keys`, [M] or [M, P], integers. None: the positive of
            anchor i is key i.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        weights: The weights of the anchors, [M]. Each loss is multiplied by its weight, and the mean is
            sum(weights * losses) / sum(weights).
        reduction: "mean", "sum" or "none".
        gather_distributed: Compare with the keys of all processes. `positive_index` still names rows of the keys of
            this process.

    Returns:
        The loss, 0-d, or [M] for reduction "none".

    Raises:
        TypeError: An embedding is not a tensor.
        ValueError: As :func:`hex_ssl.functional.hex_loss_with_keys`. Also if `weights` have the wrong shape, dtype or
            device, or require a gradient. On the CPU also if one is negative, or if they are not finite or sum to 0.

    Source:
        CPC (van den Oord et al. 2018, arXiv 1807.03748), equation 4. sentence-transformers has this loss as
        MultipleNegativesRankingLoss, with `scale` = 1 / temperature.

    Example:
        >>> import torch
        >>> questions, answers, hard = torch.eye(4)[:2], torch.eye(4)[:2], torch.eye(4)[2:]
        >>> infonce_loss(questions, torch.cat([answers, hard]), temperature=1.0)  # log(e + 3) - 1
        tensor(0.7437)
    """
    settings = Settings.of(NO_HIERARCHY, 0, "importance", 1.0, 0.1, temperature, reduction)
    check_rows("anchors", anchors)
    check_like("keys", keys, "anchors", anchors)
    index = _positive_index(anchors, keys, positive_index)
    if weights is not None:
        weights = _checked_weights(weights, anchors)
    if gather_distributed and is_distributed():
        return _infonce_gathered(anchors, keys, index, settings, weights)
    if weights is None:
        return contrast([anchors], settings, keys=keys, positive_index=index)[0]
    total = weights.sum() if settings.reduction == "mean" else None
    return _weighted(anchors, keys, index, settings, weights, total)


def _positive_index(anchors: Tensor, keys: Tensor, index: Tensor | None) -> Tensor:
    """The positives of each anchor as rows of the keys, [M, P]."""
    rows = anchors.shape[0]
    if index is not None:
        index = check_integers("positive_index", index, rows, anchors, columns=True)
        return index.unsqueeze(1) if index.dim() == 1 else index
    if keys.shape[0] < rows:
        raise ValueError(
            f"expected `keys` to have at least {rows} rows, key i being the positive of anchor i, or `positive_index`, "
            f"but got {keys.shape[0]} rows"
        )
    return torch.arange(rows, device=anchors.device)[:, None]


@_disable_dynamo
def _infonce_gathered(
    anchors: Tensor, keys: Tensor, index: Tensor, settings: Settings, weights: Tensor | None
) -> Tensor:
    """InfoNCE against the keys of all processes. "mean" and "sum" give each process a share of the loss."""
    settings.check()
    counts = gather_counts(keys.shape[0], keys.device)
    keys, index = gather_rows(keys, counts), index + sum(counts[: dist.get_rank()])
    if weights is None:
        pairing = dict.fromkeys(("positives", "ignored_index", "anchor_labels", "key_labels"))
        return contrast_with_shared_keys(anchors, settings, keys=keys, positive_index=index, **pairing)[0]
    if settings.reduction == "none":
        return _weighted(anchors, keys, index, settings, weights, None)
    processes = dist.get_world_size()
    total = weights.new_ones(()).double()
    if settings.reduction == "mean":
        total = weights.double().sum()
        dist.all_reduce(total)
    return _weighted(anchors, keys, index, settings, weights, (total / processes).to(weights.dtype))


def _weighted(
    anchors: Tensor, keys: Tensor, index: Tensor, settings: Settings, weights: Tensor, divisor: Tensor | None
) -> Tensor:
    """The losses times their weights. For "mean" and "sum", their sum divided by `divisor`."""
    if settings.reduction == "none":
        return contrast([anchors], settings, keys=keys, positive_index=index)[0] * weights
    weights = weights if divisor is None else weights / divisor
    return contrast([anchors], settings, keys=keys, positive_index=index, weights=weights)[0]


def _checked_weights(weights: Tensor, anchors: Tensor) -> Tensor:
    """Checks the weights and converts them to the dtype of the arithmetic."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"expected `weights` to be a tensor, but got {type(weights).__name__}")
    expected = [anchors.shape[0]]
    if list(weights.shape) != expected or not weights.is_floating_point():
        raise ValueError(
            f"expected `weights` to have shape {expected} and a floating-point dtype, but got {list(weights.shape)}, "
            f"{str(weights.dtype).removeprefix('torch.')}"
        )
    if weights.device != anchors.device:
        raise ValueError(f"expected `weights` on {anchors.device} like `anchors`, but got them on {weights.device}")
    if weights.requires_grad:
        raise ValueError("expected `weights` without a gradient, but they require one: the loss has none for them")
    # Values on a GPU are not checked, because that would wait for the device.
    if weights.device.type == "cpu" and not (bool((weights >= 0).all()) and 0.0 < float(weights.sum()) < math.inf):
        raise ValueError("expected `weights` to be at least 0 and finite, and not all 0")
    return weights.to(torch.float64 if anchors.dtype == torch.float64 else torch.float32)
