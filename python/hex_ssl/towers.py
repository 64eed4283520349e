"""Losses for two towers, such as images and texts: CLIP's symmetric loss and InfoNCE in one direction."""

import math
from typing import Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from hex_ssl.choices import Formulation, Reduction, ThresholdName
from hex_ssl.contrast import (
    Settings,
    contrast,
    contrast_towers_gathered,
    contrast_with_shared_keys,
    read_labels,
    rows_apart,
)
from hex_ssl.distributed import gather_counts, gather_rows, is_distributed
from hex_ssl.hints import hint_for_numbers, hint_for_object
from hex_ssl.statistics import Statistics
from hex_ssl.thresholds import NO_HIERARCHY, Threshold, check_eliminates, threshold_from
from hex_ssl.validation import check_index, check_like, check_own_negatives, check_rows, check_views


@overload
def clip_loss(
    z1: Tensor, z2: Tensor, *, temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ...,
    formulation: Formulation = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: Reduction = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def clip_loss(
    z1: Tensor, z2: Tensor, *, temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ...,
    formulation: Formulation = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: Reduction = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
@overload
def clip_loss(
    z1: Tensor, z2: Tensor, *, temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ...,
    formulation: Formulation = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: Reduction = ..., gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: bool,
) -> Tensor | tuple[Tensor, Statistics]: ...  # fmt: skip
def clip_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    threshold: Threshold | ThresholdName = NO_HIERARCHY,
    formulation: Formulation = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    labels: Tensor | None = None,
    reduction: Reduction = "mean",
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
    separate weights, as in :func:`hex_ssl.functional.hex_loss`. With `formulation="elimination"` they are left out:
    those with the row's label for `threshold="supervised"`, and those that are closer than the positive for
    :class:`hex_ssl.thresholds.MarginThreshold`.

    Args:
        z1: Embeddings of one tower, [N, D], float64, float32, bfloat16 or float16, at any scale. No row may be all
            zeros.
        z2: Embeddings of the other tower, like `z1`.
        temperature: A number above 0, or a tensor of shape [] on the device of the embeddings. The tensor gets a
            gradient if it requires one. CLIP's temperature is `1 / logit_scale.exp()`.
        threshold: As for :func:`hex_ssl.functional.hex_loss`. By default there are no hierarchical negatives.
        formulation: "importance", "official", "decoupled" or "elimination".
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
        ValueError: As :func:`hex_ssl.functional.hex_loss`. Also if `formulation` is "elimination" and no threshold is
            given.

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
    check_eliminates(threshold, settings.formulation)
    if gather_distributed and is_distributed():
        return contrast_towers_gathered(z1, z2, settings, labels)
    return contrast([z1, z2], settings, anchor_labels=None if labels is None else labels.repeat(2), towers=True)


@overload
def infonce_loss(
    anchors: Tensor, keys: Tensor, *, positive_index: Tensor | None = ..., ignored_index: Tensor | None = ...,
    own_negatives: Tensor | None = ..., anchor_labels: Tensor | None = ..., key_labels: Tensor | None = ...,
    temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ..., formulation: Formulation = ...,
    beta: float = ..., tau_plus: float = ..., weights: Tensor | None = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def infonce_loss(
    anchors: Tensor, keys: Tensor, *, positive_index: Tensor | None = ..., ignored_index: Tensor | None = ...,
    own_negatives: Tensor | None = ..., anchor_labels: Tensor | None = ..., key_labels: Tensor | None = ...,
    temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ..., formulation: Formulation = ...,
    beta: float = ..., tau_plus: float = ..., weights: Tensor | None = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
@overload
def infonce_loss(
    anchors: Tensor, keys: Tensor, *, positive_index: Tensor | None = ..., ignored_index: Tensor | None = ...,
    own_negatives: Tensor | None = ..., anchor_labels: Tensor | None = ..., key_labels: Tensor | None = ...,
    temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ..., formulation: Formulation = ...,
    beta: float = ..., tau_plus: float = ..., weights: Tensor | None = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: bool,
) -> Tensor | tuple[Tensor, Statistics]: ...  # fmt: skip
def infonce_loss(
    anchors: Tensor,
    keys: Tensor,
    *,
    positive_index: Tensor | None = None,
    ignored_index: Tensor | None = None,
    own_negatives: Tensor | None = None,
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    threshold: Threshold | ThresholdName = NO_HIERARCHY,
    formulation: Formulation = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
    epoch: int | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    """InfoNCE in one direction: the positives of each anchor are among the keys.

    This function L2-normalises the rows. With the cosine similarities c_ij of anchors and keys, P(i) the positives of
    anchor i, and N(i) its negatives::

        L_i  = mean_{p in P(i)} L_ip
        L_ip = -log( exp(s_ip) / (exp(s_ip) + sum_{n in N(i)} exp(s_in)) ),  s_ij = c_ij / temperature

    N(i) consists of the other keys and the own negatives of the anchor, without the ignored keys. With
    `formulation="elimination"`, the negatives on the hierarchical side of the threshold are left out, too: those with
    the anchor's label for `threshold="supervised"`, and those that are closer than the positive for
    :class:`hex_ssl.thresholds.MarginThreshold`. With "importance", they have separate weights, as in
    :func:`hex_ssl.functional.hex_loss`. By default no negative is on this side.

    Hard negatives for all anchors are further keys: `keys=torch.cat([positives, hard_negatives])`. Hard negatives of
    one anchor are `own_negatives`. Use :func:`hex_ssl.functional.hex_loss_with_keys` for positives that are not among
    the keys, and for a queue of negatives.

    Args:
        anchors: Queries, [M, D], float64, float32, bfloat16 or float16, at any scale. No row may be all zeros.
        keys: [N, D], with the dtype and device of `anchors`. Without `positive_index`, N must be at least M.
        positive_index: The positives of each anchor as rows of `keys`, [M] or [M, P], integers. None: the positive of
            anchor i is key i.
        ignored_index: The rows of `keys` that are neither positives nor negatives of the anchor, [M] or [M, I],
            integers, different from each other and from the positives. -1 for none: pad shorter lists with it.
        own_negatives: Further negatives of each anchor, [M, H, D], like `anchors`. No other anchor is compared with
            them. They get a gradient if they require one.
        anchor_labels: The labels of the anchors, integers [M]. Only the supervised threshold accepts them.
        key_labels: The labels of the keys, integers [N]. Own negatives have no labels.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        threshold: As for :func:`hex_ssl.functional.hex_loss_with_keys`. By default there are no hierarchical negatives.
        formulation: "importance", "official", "decoupled" or "elimination".
        beta: At least 0.
        tau_plus: In [0, 1).
        weights: The weights of the anchors, [M]. Each loss is multiplied by its weight, and the mean is
            sum(weights * losses) / sum(weights). An anchor without a loss has 0.
        reduction: "mean", "sum" or "none".
        gather_distributed: Compare with the keys of all processes. `positive_index` and `ignored_index` still name rows
            of the keys of this process. Own negatives are not gathered.
        epoch: The epoch, counted from 0. Thresholds that change with the epoch need it.
        return_statistics: Also return the statistics.

    Returns:
        The loss, 0-d, or [M] for reduction "none". With `return_statistics`, the loss and its :class:`Statistics`.

    Raises:
        TypeError: An embedding is not a tensor.
        ValueError: As :func:`hex_ssl.functional.hex_loss_with_keys`. Also if `weights` have the wrong shape, dtype or
            device, or require a gradient. On the CPU, but not in compiled code, also if one is negative, or if they are
            not finite or sum to 0. Also if `formulation` is "elimination" and no threshold is given.

    Source:
        CPC (van den Oord et al. 2018, arXiv 1807.03748), equation 4. sentence-transformers has this loss as
        MultipleNegativesRankingLoss, with `scale` = 1 / temperature. info-nce-pytorch has own negatives as
        negative_mode="paired".

    Example:
        >>> import torch
        >>> questions, answers, hard = torch.eye(4)[:2], torch.eye(4)[:2], torch.eye(4)[2:]
        >>> infonce_loss(questions, torch.cat([answers, hard]), temperature=1.0)  # log(e + 3) - 1
        tensor(0.7437)
        >>> infonce_loss(questions, answers, own_negatives=hard[:, None], temperature=1.0)  # log(e + 2) - 1
        tensor(0.5514)
    """
    strategy = threshold_from(threshold)
    settings = Settings.of(strategy, epoch, formulation, beta, tau_plus, temperature, reduction)
    loss, statistics = loss_in_one_direction(
        anchors,
        keys,
        strategy,
        settings,
        positive_index=positive_index,
        ignored_index=ignored_index,
        own_negatives=own_negatives,
        anchor_labels=anchor_labels,
        key_labels=key_labels,
        weights=weights,
        gather_distributed=gather_distributed,
    )
    return (loss, Statistics(*statistics.unbind())) if return_statistics else loss


def loss_in_one_direction(
    anchors: Tensor,
    keys: Tensor,
    threshold: Threshold,
    settings: Settings,
    *,
    positive_index: Tensor | None = None,
    ignored_index: Tensor | None = None,
    own_negatives: Tensor | None = None,
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    weights: Tensor | None = None,
    gather_distributed: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`infonce_loss` with :class:`Settings`. Returns the loss and the statistics [6]."""
    check_rows("anchors", anchors)
    check_like("keys", keys, "anchors", anchors)
    if own_negatives is not None:
        check_own_negatives(own_negatives, anchors)
    pairing: dict[str, Any] = {
        "keys": keys,
        "positives": rows_apart(None, own_negatives),
        "positive_index": _positive_index(anchors, keys, positive_index),
        "ignored_index": None if ignored_index is None else check_index("ignored_index", ignored_index, anchors),
        "anchor_labels": read_labels(settings, threshold, "anchor_labels", anchor_labels, anchors),
        "key_labels": read_labels(settings, threshold, "key_labels", key_labels, keys),
    }
    check_eliminates(threshold, settings.formulation)
    if weights is not None:
        weights = _checked_weights(weights, anchors)
    if gather_distributed and is_distributed():
        _check_own_keys("positive_index", pairing["positive_index"], keys, 0)
        _check_own_keys("ignored_index", pairing["ignored_index"], keys, -1)
        return _infonce_gathered(anchors, settings, weights, **pairing)
    if weights is None or settings.reduction == "none":
        loss, statistics = contrast([anchors], settings, **pairing)
        return (loss if weights is None else loss * weights), statistics
    weights = weights / weights.sum() if settings.reduction == "mean" else weights
    return contrast([anchors], settings, weights=weights, **pairing)


def _positive_index(anchors: Tensor, keys: Tensor, index: Tensor | None) -> Tensor:
    """The positives of each anchor as rows of the keys, [M, P]."""
    rows = anchors.shape[0]
    if index is not None:
        return check_index("positive_index", index, anchors)
    if keys.shape[0] < rows:
        raise ValueError(
            f"expected `keys` to have at least {rows} rows, key i being the positive of anchor i, or `positive_index`, "
            f"but got {keys.shape[0]} rows"
        )
    return torch.arange(rows, device=anchors.device)[:, None]


@_disable_dynamo
def _check_own_keys(name: str, index: Tensor | None, keys: Tensor, lowest: int) -> None:
    """Checks that row numbers are those of this process's keys. Among the keys of all processes any number is a row."""
    if index is None or index.numel() == 0 or index.device.type != "cpu":
        return  # on a GPU the check would wait for the device
    rows = keys.shape[0]
    for number in (int(index.min()), int(index.max())):
        if not lowest <= number < rows:
            raise ValueError(f"expected `{name}` to be in [{lowest}, {rows}), but got {number}")


@_disable_dynamo
def _infonce_gathered(
    anchors: Tensor,
    settings: Settings,
    weights: Tensor | None,
    *,
    keys: Tensor,
    positive_index: Tensor,
    ignored_index: Tensor | None,
    key_labels: Tensor | None,
    **own: Any,
) -> tuple[Tensor, Tensor]:
    """InfoNCE against the keys of all processes. "mean" and "sum" give each process a share of the loss."""
    settings.check()
    counts = gather_counts(keys.shape[0], keys.device)
    offset = sum(counts[: dist.get_rank()])
    pairing = own | {
        "keys": gather_rows(keys, counts),
        "positive_index": positive_index + offset,
        "ignored_index": None if ignored_index is None else torch.where(ignored_index < 0, -1, ignored_index + offset),
        "key_labels": None if key_labels is None else gather_rows(key_labels, counts),
    }
    if weights is None or settings.reduction == "none":
        loss, statistics = contrast_with_shared_keys(anchors, settings, **pairing)
        return (loss if weights is None else loss * weights), statistics
    if settings.reduction == "mean":
        total = weights.double().sum()
        dist.all_reduce(total)
        weights = (weights / total).to(weights.dtype)
    return contrast_with_shared_keys(anchors, settings._replace(reduction="sum"), weights=weights, **pairing)


def _checked_weights(weights: Tensor, anchors: Tensor) -> Tensor:
    """Checks the weights and converts them to the dtype of the arithmetic."""
    if not isinstance(weights, Tensor):
        kind = f"{type(weights).__name__}{hint_for_object('weights', weights)}"
        raise TypeError(f"expected `weights` to be a tensor, but got {kind}")
    expected = [anchors.shape[0]]
    if list(weights.shape) != expected or not weights.is_floating_point():
        hint = hint_for_numbers("weights", weights)
        raise ValueError(
            f"expected `weights` to have shape {expected} and a floating-point dtype, but got {list(weights.shape)}, "
            f"{str(weights.dtype).removeprefix('torch.')}{hint}"
        )
    if weights.device != anchors.device:
        raise ValueError(f"expected `weights` on {anchors.device} like `anchors`, but got them on {weights.device}")
    if weights.requires_grad:
        raise ValueError("expected `weights` without a gradient, but they require one: the loss has none for them")
    # The sum of 16-bit weights may be too large for their dtype.
    weights = weights.to(torch.float64 if anchors.dtype == torch.float64 else torch.float32)
    # Values on a GPU are not checked, because that would wait for the device. Compiled code cannot check them either.
    readable = weights.device.type == "cpu" and not torch.compiler.is_compiling()
    if readable and not (bool((weights >= 0).all()) and 0.0 < float(weights.sum()) < math.inf):
        raise ValueError("expected `weights` to be at least 0 and finite, and not all 0")
    return weights
