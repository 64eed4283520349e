"""The losses as functions. :func:`hex_loss` documents the formula, and most other losses are special cases of it."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from hex_ssl.choices import Formulation, Reduction, ThresholdName
from hex_ssl.contrast import (
    Settings,
    contrast,
    contrast_gathered,
    contrast_with_shared_keys,
    read_labels,
    rows_apart,
)
from hex_ssl.direct import evaluate_directly
from hex_ssl.distributed import is_distributed
from hex_ssl.statistics import Statistics
from hex_ssl.supervised import supcon_loss as supcon_loss
from hex_ssl.thresholds import ALL_HIERARCHICAL as ALL_HIERARCHICAL
from hex_ssl.thresholds import NO_HIERARCHY as NO_HIERARCHY
from hex_ssl.thresholds import Threshold, threshold_from
from hex_ssl.towers import clip_loss as clip_loss
from hex_ssl.towers import infonce_loss as infonce_loss
from hex_ssl.validation import check_index, check_like, check_own_negatives, check_rows, check_views


@overload
def hex_loss(
    z1: Tensor, z2: Tensor, *more_views: Tensor, temperature: float | Tensor = ...,
    threshold: Threshold | ThresholdName = ..., formulation: Formulation = ..., beta: float = ...,
    tau_plus: float = ..., labels: Tensor | None = ..., reduction: Reduction = ..., gather_distributed: bool = ...,
    epoch: int | None = ..., return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def hex_loss(
    z1: Tensor, z2: Tensor, *more_views: Tensor, temperature: float | Tensor = ...,
    threshold: Threshold | ThresholdName = ..., formulation: Formulation = ..., beta: float = ...,
    tau_plus: float = ..., labels: Tensor | None = ..., reduction: Reduction = ..., gather_distributed: bool = ...,
    epoch: int | None = ..., return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
@overload
def hex_loss(
    z1: Tensor, z2: Tensor, *more_views: Tensor, temperature: float | Tensor = ...,
    threshold: Threshold | ThresholdName = ..., formulation: Formulation = ..., beta: float = ...,
    tau_plus: float = ..., labels: Tensor | None = ..., reduction: Reduction = ..., gather_distributed: bool = ...,
    epoch: int | None = ..., return_statistics: bool,
) -> Tensor | tuple[Tensor, Statistics]: ...  # fmt: skip
def hex_loss(
    z1: Tensor,
    z2: Tensor,
    *more_views: Tensor,
    temperature: float | Tensor = 0.1,
    threshold: Threshold | ThresholdName = "adaptive",
    formulation: Formulation = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    labels: Tensor | None = None,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
    epoch: int | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    r"""The HEX loss: InfoNCE with separate weights for the hierarchical negatives, which are close to the anchor.

    The V views of n samples, concatenated to [V * n, D], are both the anchors i and the keys j. This function
    L2-normalises the rows. The positives p of anchor i are the other views of its sample. All other keys, except the
    anchor itself, are negatives. With the cosine similarity c_ij and the logits s_ij = c_ij / temperature, the
    threshold epsilon splits the negatives into hierarchical ones, H(i) = {c_ij > epsilon}, and global ones, G(i)::

        importance:  L_ip = -log( exp(s_ip) / (exp(s_ip) + E_i + Q_ip) )
                     E_i  = sum_{n in G(i)} exp(s_in)
                     Q_ip = max( (R_i - tau_plus |H(i)| exp(s_ip)) / (1 - tau_plus),  |H(i)| exp(-1 / temperature) )
                     R_i  = sum_{h in H(i)} w_ih exp(s_ih)
                     w_ih = exp(beta s_ih) / mean_{h' in H(i)} exp(beta s_ih')
        official:    L_ip = -s_ip + log(E_i) + (|G(i)| + |H(i)|) exp(-1 / temperature)
        decoupled:   L_ip = -s_ip + log(E_i)
        elimination: L_ip = -log( exp(s_ip) / (exp(s_ip) + E_i) )

    The loss of an anchor is the mean over its V - 1 positives. Gradients flow through w, but not through epsilon.
    Where Q is at its floor (the second argument of max), the hierarchical negatives get no gradient.
    `Statistics.floor_fraction` is the fraction of such cases.

    ===============  ======================
    symbol           argument
    ===============  ======================
    views            `z1, z2, *more_views`
    epsilon          `threshold`
    labels of H(i)   `labels`
    ===============  ======================

    "importance" is the weighting of the paper, reconstructed from its method figure, its supplement and HCL. "official"
    is what the authors' released code computes: it removes the hierarchical negatives and ignores `beta` and
    `tau_plus`. "elimination" is NT-Xent without the hierarchical negatives, which are taken for false negatives: with
    `threshold="supervised"` the negatives with the anchor's label, with :class:`hex_ssl.thresholds.MarginThreshold` the
    negatives that are closer than the positive. With "official" or "decoupled", an anchor without global negatives has
    no loss: it is left out of the mean and counted in the statistics. A batch of one sample has no negatives at all, so
    this holds for each of its anchors. With "importance" or "elimination" their loss and gradient are 0.

    Args:
        z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16, at any scale. No row may be
            all zeros. The arithmetic is in float64 for float64 inputs, else in float32, also under autocast. Under
            autocast the views may have different dtypes, except float64. They are then converted to the widest one.
        z2: Projections of the second views of the same samples, like `z1`.
        *more_views: Further views, each like `z1`.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        threshold: A strategy of :mod:`hex_ssl.thresholds`, or its name: "adaptive", "step", "cosine", "supervised".
        formulation: "importance", "official", "decoupled" or "elimination".
        beta: Concentration of the importance weights, at least 0. Used only by "importance".
        tau_plus: Probability that a negative is a false negative, in [0, 1) (HCL's class prior). The expected positives
            in H(i) are subtracted. Used only by "importance".
        labels: The (superclass) labels of the samples, integers [n]. Only the supervised threshold accepts them. -1 is
            a label like any other. Give each sample without a label its own number, for example by
            `torch.where(labels >= 0, labels, -1 - torch.arange(n))`.
        reduction: "mean" over the anchors that have a loss, "sum", or "none".
        gather_distributed: Compare with the keys of all processes, and find the threshold over all anchors. With
            reduction "mean" or "sum", the mean of the losses over the processes, and so DDP's mean of the gradients,
            equals that of one process on the joined batch. The batch sizes may differ. Without a process group this
            changes nothing.
        epoch: The epoch, counted from 0. Thresholds that change with the epoch need it.
        return_statistics: Also return the statistics. With `gather_distributed` they are those of all processes.

    Returns:
        The loss, 0-d, or [V * n] for reduction "none" (0 where it is undefined). It is float64 for float64 inputs, else
        float32. With `return_statistics`, the loss and its :class:`Statistics`.

    Raises:
        TypeError: A view is not a tensor.
        ValueError: Shapes, dtypes or devices differ, an argument is out of its range, labels are given but the
            threshold does not use them, or a row is all zeros or not finite.

    Source:
        HEX ("Hierarchical Emergence Exploitation", WACV 2025), supplement S7.3 and S7.4. The weights, the
        debiasing and its floor come from HCL (Robinson et al. 2021, arXiv 2010.04592). The elimination is that of Huynh
        et al. (WACV 2022, arXiv 2011.11765).

    Example:
        >>> import torch
        >>> z1, z2 = torch.randn(32, 16, requires_grad=True), torch.randn(32, 16)
        >>> loss, statistics = hex_loss(z1, z2, temperature=0.2, return_statistics=True)
        >>> loss.backward()
        >>> z1.grad.shape, statistics.threshold.shape
        (torch.Size([32, 16]), torch.Size([]))
    """
    strategy = threshold_from(threshold)
    settings = Settings.of(strategy, epoch, formulation, beta, tau_plus, temperature, reduction)
    loss, statistics = loss_of_views([z1, z2, *more_views], strategy, settings, labels, gather_distributed)
    return (loss, Statistics(*statistics.unbind())) if return_statistics else loss


def loss_of_views(
    views: list[Tensor], threshold: Threshold, settings: Settings, labels: Tensor | None, gather_distributed: bool
) -> tuple[Tensor, Tensor]:
    """:func:`hex_loss` with :class:`Settings`. Returns the loss and the statistics [6]."""
    if labels is None and not gather_distributed:
        found = evaluate_directly(views, settings)
        if found is not None:
            return found
    check_views(views)
    labels = read_labels(settings, threshold, "labels", labels, views[0])
    anchor_labels = None if labels is None else labels.repeat(len(views))
    if gather_distributed and is_distributed():
        return contrast_gathered(views, settings, anchor_labels)
    return contrast(views, settings, anchor_labels=anchor_labels)


def ntxent_loss(
    z1: Tensor,
    z2: Tensor,
    *more_views: Tensor,
    temperature: float | Tensor = 0.5,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """NT-Xent (InfoNCE): :func:`hex_loss` without hierarchical negatives. See there for the formula.

    To leave out the negatives with the anchor's label, call :func:`hex_loss` with `formulation="elimination"`,
    `threshold="supervised"` and `labels`. pytorch-metric-learning's NTXentLoss makes these rows positives instead. So
    does :func:`supcon_loss`, which also has the other positives in the denominator.

    Args:
        z1: Projections of the first views, [n, D].
        z2: Projections of the second views, like `z1`.
        *more_views: Further views, like `z1`.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        reduction: "mean", "sum" or "none".
        gather_distributed: Compare with the keys of all processes.

    Returns:
        The loss, as :func:`hex_loss`.

    Raises:
        TypeError, ValueError: As :func:`hex_loss`.

    Source:
        SimCLR (Chen et al. 2020, arXiv 2002.05709).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> ntxent_loss(z, z, temperature=1.0)  # log(e + 6) - 1
        tensor(1.1654)
    """
    return hex_loss(
        z1,
        z2,
        *more_views,
        temperature=temperature,
        threshold=NO_HIERARCHY,
        reduction=reduction,
        gather_distributed=gather_distributed,
    )


def hcl_loss(
    z1: Tensor,
    z2: Tensor,
    *more_views: Tensor,
    temperature: float | Tensor = 0.5,
    beta: float = 1.0,
    tau_plus: float = 0.1,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """HCL: :func:`hex_loss` where every negative is hierarchical. See there for the formula.

    Args:
        z1: Projections of the first views, [n, D].
        z2: Projections of the second views, like `z1`.
        *more_views: Further views, like `z1`.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        beta: Concentration on the negatives close to the anchor, at least 0.
        tau_plus: Probability that a negative is a false negative, in [0, 1).
        reduction: "mean", "sum" or "none".
        gather_distributed: Compare with the keys of all processes.

    Returns:
        The loss, as :func:`hex_loss`.

    Raises:
        TypeError, ValueError: As :func:`hex_loss`.

    Source:
        "Contrastive Learning with Hard Negative Samples" (Robinson et al. 2021, arXiv 2010.04592).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> hcl_loss(z, z, temperature=1.0, beta=0.0, tau_plus=0.0)  # NT-Xent
        tensor(1.1654)
    """
    return hex_loss(
        z1,
        z2,
        *more_views,
        temperature=temperature,
        threshold=ALL_HIERARCHICAL,
        beta=beta,
        tau_plus=tau_plus,
        reduction=reduction,
        gather_distributed=gather_distributed,
    )


def dcl_loss(
    z1: Tensor,
    z2: Tensor,
    *more_views: Tensor,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """DCL, decoupled contrastive learning: NT-Xent without the positive in the denominator.

    See :func:`hex_loss`, formulation "decoupled", for the formula.

    Args:
        z1: Projections of the first views, [n, D].
        z2: Projections of the second views, like `z1`.
        *more_views: Further views, like `z1`.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        reduction: "mean", "sum" or "none".
        gather_distributed: Compare with the keys of all processes.

    Returns:
        The loss, as :func:`hex_loss`.

    Raises:
        TypeError, ValueError: As :func:`hex_loss`.

    Source:
        "Decoupled Contrastive Learning" (Yeh et al. 2022, arXiv 2110.06848).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> dcl_loss(z, z, temperature=1.0)  # log(6) - 1
        tensor(0.7918)
    """
    return hex_loss(
        z1,
        z2,
        *more_views,
        temperature=temperature,
        threshold=NO_HIERARCHY,
        formulation="decoupled",
        reduction=reduction,
        gather_distributed=gather_distributed,
    )


@overload
def hex_loss_with_keys(
    anchors: Tensor, keys: Tensor, *, positives: Tensor | None = ..., positive_index: Tensor | None = ...,
    ignored_index: Tensor | None = ..., own_negatives: Tensor | None = ..., anchor_labels: Tensor | None = ...,
    key_labels: Tensor | None = ..., temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ...,
    formulation: Formulation = ..., beta: float = ..., tau_plus: float = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def hex_loss_with_keys(
    anchors: Tensor, keys: Tensor, *, positives: Tensor | None = ..., positive_index: Tensor | None = ...,
    ignored_index: Tensor | None = ..., own_negatives: Tensor | None = ..., anchor_labels: Tensor | None = ...,
    key_labels: Tensor | None = ..., temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ...,
    formulation: Formulation = ..., beta: float = ..., tau_plus: float = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
@overload
def hex_loss_with_keys(
    anchors: Tensor, keys: Tensor, *, positives: Tensor | None = ..., positive_index: Tensor | None = ...,
    ignored_index: Tensor | None = ..., own_negatives: Tensor | None = ..., anchor_labels: Tensor | None = ...,
    key_labels: Tensor | None = ..., temperature: float | Tensor = ..., threshold: Threshold | ThresholdName = ...,
    formulation: Formulation = ..., beta: float = ..., tau_plus: float = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., epoch: int | None = ..., return_statistics: bool,
) -> Tensor | tuple[Tensor, Statistics]: ...  # fmt: skip
def hex_loss_with_keys(
    anchors: Tensor,
    keys: Tensor,
    *,
    positives: Tensor | None = None,
    positive_index: Tensor | None = None,
    ignored_index: Tensor | None = None,
    own_negatives: Tensor | None = None,
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    threshold: Threshold | ThresholdName = "adaptive",
    formulation: Formulation = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
    epoch: int | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    """:func:`hex_loss` of anchors against separate keys, such as a queue, a memory bank or another encoder's output.

    See :func:`hex_loss` for the formula. There are two ways to give the positives of each anchor. `positives` are
    separate from the keys, which are then all negatives, except for those in `ignored_index`. MoCo does this: its
    positives come from the momentum encoder, its keys from the queue. `positive_index` names rows of the keys. For
    InfoNCE against a queue, use `threshold=NO_HIERARCHY`.

    Args:
        anchors: [M, D], like `z1` of :func:`hex_loss`.
        keys: [N, D], with the dtype and device of `anchors`. They get a gradient if they require one.
        positives: The positive of each anchor, [M, D], like `anchors`.
        positive_index: The positives of each anchor as rows of `keys`, [M] or [M, P], integers in [0, N).
        ignored_index: The rows of `keys` that are neither positives nor negatives of the anchor, [M] or [M, I],
            integers, different from each other and from the positives. -1 for none: pad shorter lists with it.
        own_negatives: Further negatives of each anchor, [M, H, D], like `anchors`. No other anchor is compared with
            them. They have no labels. They get a gradient if they require one.
        anchor_labels: The labels of the anchors, integers [M]. Only the supervised threshold accepts them. -1 is a
            label like any other. Give an anchor without a label a number that no key has.
        key_labels: The labels of the keys, integers [N].
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        threshold: As for :func:`hex_loss`. An anchor's row consists of all keys, of its positive if that is given as
            `positives`, and of its own negatives.
        formulation: "importance", "official", "decoupled" or "elimination".
        beta: At least 0.
        tau_plus: In [0, 1).
        reduction: "mean", "sum" or "none".
        gather_distributed: Find the threshold over the anchors of all processes. The keys are not gathered: give the
            same keys, such as a queue, to each process. With reduction "mean" or "sum", the mean of the losses over the
            processes then equals the loss of one process on all anchors.
        epoch: The epoch, counted from 0. Thresholds that change with the epoch need it.
        return_statistics: Also return the statistics.

    Returns:
        The loss, 0-d, or [M] for reduction "none". With `return_statistics`, the loss and its :class:`Statistics`.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: As :func:`hex_loss`. Also if both or none of `positives` and `positive_index` are given, or if
            `positives` are rows of `keys`.

    Source:
        As :func:`hex_loss`. The queue comes from MoCo (He et al. 2020, arXiv 1911.05722). The HEX paper does not apply
        HEX to MoCo.

    Example:
        >>> import torch
        >>> queries, momentum_keys, queue = torch.randn(8, 16), torch.randn(8, 16), torch.randn(64, 16)
        >>> hex_loss_with_keys(queries, queue, positives=momentum_keys, temperature=0.2).shape
        torch.Size([])
    """
    strategy = threshold_from(threshold)
    settings = Settings.of(strategy, epoch, formulation, beta, tau_plus, temperature, reduction)
    loss, statistics = loss_with_keys(
        anchors,
        keys,
        strategy,
        settings,
        positives=positives,
        positive_index=positive_index,
        ignored_index=ignored_index,
        own_negatives=own_negatives,
        anchor_labels=anchor_labels,
        key_labels=key_labels,
        gather_distributed=gather_distributed,
    )
    return (loss, Statistics(*statistics.unbind())) if return_statistics else loss


def loss_with_keys(
    anchors: Tensor,
    keys: Tensor,
    threshold: Threshold,
    settings: Settings,
    *,
    positives: Tensor | None = None,
    positive_index: Tensor | None = None,
    ignored_index: Tensor | None = None,
    own_negatives: Tensor | None = None,
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    gather_distributed: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`hex_loss_with_keys` with :class:`Settings`. Returns the loss and the statistics [6]."""
    check_rows("anchors", anchors)
    check_like("keys", keys, "anchors", anchors)
    if (positives is None) == (positive_index is None):
        given = "none" if positives is None else "both"
        raise ValueError(f"expected one of `positives` and `positive_index`, but got {given}")
    if positives is not None:
        check_like("positives", positives, "anchors", anchors, same_rows=True)
        _check_apart(keys, positives)
    if own_negatives is not None:
        check_own_negatives(own_negatives, anchors)
    pairing: dict[str, Any] = {
        "keys": keys,
        "positives": rows_apart(positives, own_negatives),
        "positive_index": None if positive_index is None else check_index("positive_index", positive_index, anchors),
        "ignored_index": None if ignored_index is None else check_index("ignored_index", ignored_index, anchors),
        "anchor_labels": read_labels(settings, threshold, "anchor_labels", anchor_labels, anchors),
        "key_labels": read_labels(settings, threshold, "key_labels", key_labels, keys),
    }
    if gather_distributed and is_distributed():
        return contrast_with_shared_keys(anchors, settings, **pairing)
    return contrast([anchors], settings, **pairing)


def _check_apart(keys: Tensor, positives: Tensor) -> None:
    """Raises an error if the positives share memory with rows of the keys. It does not compare the numbers."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        first = 0 if keys is positives else None
    else:
        first = _first_row_of(keys, positives)
    if first is not None:
        rows = f"torch.arange({first}, {first + positives.shape[0]})" if first else "torch.arange(len(anchors))"
        raise ValueError(
            "expected `positives` apart from `keys`, but got rows of the keys: each positive would be a negative, too; "
            f"call hex_ssl.functional.hex_loss_with_keys(anchors, keys, positive_index={rows})"
        )


def _first_row_of(keys: Tensor, positives: Tensor) -> int | None:
    """The row of the keys at which the memory of the positives starts. None if they are not rows of the keys."""
    if keys.stride() != positives.stride() or not torch._C._is_alias_of(keys, positives):  # type: ignore[attr-defined]
        return None
    row, rest = divmod(int(positives.storage_offset()) - int(keys.storage_offset()), max(keys.stride(0), 1))
    return row if rest == 0 and 0 <= row <= keys.shape[0] - positives.shape[0] else None
