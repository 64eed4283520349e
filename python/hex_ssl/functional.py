"""The losses as functions without state. The formula stands once, in :func:`hex_loss`; the others are points of it."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from hex_ssl.contrast import Settings, contrast, contrast_gathered, contrast_with_shared_keys, read_labels
from hex_ssl.distributed import is_distributed
from hex_ssl.statistics import Statistics
from hex_ssl.supervised import supcon_loss as supcon_loss
from hex_ssl.thresholds import ALL_HIERARCHICAL as ALL_HIERARCHICAL
from hex_ssl.thresholds import NO_HIERARCHY as NO_HIERARCHY
from hex_ssl.thresholds import Threshold, threshold_from
from hex_ssl.towers import clip_loss as clip_loss
from hex_ssl.towers import infonce_loss as infonce_loss
from hex_ssl.validation import check_integers, check_like, check_rows, check_views


@overload
def hex_loss(
    z1: Tensor, z2: Tensor, *more_views: Tensor, temperature: float | Tensor = ..., threshold: Threshold | str = ...,
    formulation: str = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: str = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def hex_loss(
    z1: Tensor, z2: Tensor, *more_views: Tensor, temperature: float | Tensor = ..., threshold: Threshold | str = ...,
    formulation: str = ..., beta: float = ..., tau_plus: float = ..., labels: Tensor | None = ...,
    reduction: str = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
def hex_loss(
    z1: Tensor,
    z2: Tensor,
    *more_views: Tensor,
    temperature: float | Tensor = 0.1,
    threshold: Threshold | str = "adaptive",
    formulation: str = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    labels: Tensor | None = None,
    reduction: str = "mean",
    gather_distributed: bool = False,
    epoch: int | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    r"""The HEX loss: InfoNCE whose hierarchical negatives, those close to the anchor, are weighted apart.

    The V views of n samples, one below the other, are the anchors i and the keys j, [V * n, D]. Rows are
    L2-normalised here. Anchor i's positives p are the other views of its sample; every other key but itself
    is a negative. With the cosine similarity c_ij and the logits s_ij = c_ij / temperature, the threshold
    epsilon splits the negatives into hierarchical ones, H(i) = {c_ij > epsilon}, and global ones, G(i)::

        importance:  L_ip = -log( exp(s_ip) / (exp(s_ip) + E_i + Q_ip) )
                     E_i  = sum_{n in G(i)} exp(s_in)
                     Q_ip = max( (R_i - tau_plus |H(i)| exp(s_ip)) / (1 - tau_plus),  |H(i)| exp(-1 / temperature) )
                     R_i  = sum_{h in H(i)} w_ih exp(s_ih)
                     w_ih = exp(beta s_ih) / mean_{h' in H(i)} exp(beta s_ih')
        official:    L_ip = -s_ip + log(E_i) + (|G(i)| + |H(i)|) exp(-1 / temperature)
        decoupled:   L_ip = -s_ip + log(E_i)

    An anchor's loss is the mean over its V - 1 positives. No gradient goes through epsilon; it goes through w.
    Where Q is at its floor (the max's second argument) the hierarchical negatives get no push at all:
    `Statistics.floor_fraction` tells how often.

    ===============  ======================
    symbol           argument
    ===============  ======================
    views            `z1, z2, *more_views`
    epsilon          `threshold`
    labels of H(i)   `labels`
    ===============  ======================

    "importance" is the paper's weighting, put together from its method figure, its supplement and HCL;
    "official" is what the authors' released code computes: the hierarchical negatives are removed, and
    `beta` and `tau_plus` do nothing. An anchor without global negatives has no official (or decoupled)
    loss: it is left out of the mean and counted in the statistics. So is each anchor of a batch of one sample, which
    has no negatives at all; its importance loss is 0, with gradient 0.

    Args:
        z1: Projections of the first views, [n, D], float64, float32, bfloat16 or float16; any scale but zero.
            The arithmetic is in float32, for float64 in float64; under autocast, too. There the views may be of several
            dtypes, float64 apart: they are computed with in the widest.
        z2: Projections of the second views of the same samples, like `z1`.
        *more_views: Further views, each like `z1`.
        temperature: Above 0: a number, or a tensor of shape [], which gets a gradient where it requires one.
        threshold: A strategy of :mod:`hex_ssl.thresholds`, or its name: "adaptive", "step", "cosine", "supervised".
        formulation: "importance", "official" or "decoupled".
        beta: Concentration of the importance weights, at least 0. Importance alone reads it.
        tau_plus: Probability that a negative is a false one, in [0, 1) (HCL's class prior); subtracts the
            positives to be expected in H(i). Importance alone reads it.
        labels: The samples' (superclass) labels, [n], integers, for the supervised threshold alone. -1 is a
            label like any other: a sample without a label gets a number of its own, such as
            `torch.where(labels >= 0, labels, -1 - torch.arange(n))`.
        reduction: "mean" over the anchors that have a loss, "sum", or "none".
        gather_distributed: Compare with the keys of all processes, and find the threshold over all anchors.
            With reduction "mean" or "sum" the mean over the processes of the losses, and so DDP's mean of
            the gradients, is that of one process on the joined batch, for batches of any sizes. Without a
            process group this changes nothing.
        epoch: From 0; thresholds that change with the epoch need it.
        return_statistics: Also return the statistics (of all processes where gathered).

    Returns:
        The loss, 0-d, or [V * n] for reduction "none" (0 where none is defined); float64 for float64
        inputs, else float32. With `return_statistics`: the loss and its :class:`Statistics`.

    Raises:
        TypeError: A view is not a tensor.
        ValueError: Shapes, dtypes or devices differ, an argument is out of its range, there are labels that the
            threshold does not read, or a row is all zeros or not finite.

    Source:
        HEX ("Hierarchical Emergence Exploitation", WACV 2025), supplement S7.3 and S7.4; the weights, the
        debiasing and its floor: HCL (Robinson et al. 2021, arXiv 2010.04592).

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
    """:func:`hex_loss` by settings, and its statistics as one tensor, [6]."""
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
    reduction: str = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """NT-Xent (InfoNCE): :func:`hex_loss` without hierarchical negatives; its docstring has the formula.

    Args:
        z1: Projections of the first views, [n, D].
        z2: Projections of the second views, like `z1`.
        *more_views: Further views, like `z1`.
        temperature: Above 0: a number, or a tensor of shape [], which gets a gradient where it requires one.
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
    reduction: str = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """HCL: :func:`hex_loss` with every negative hierarchical; its docstring has the formula.

    Args:
        z1: Projections of the first views, [n, D].
        z2: Projections of the second views, like `z1`.
        *more_views: Further views, like `z1`.
        temperature: Above 0: a number, or a tensor of shape [], which gets a gradient where it requires one.
        beta: Concentration on the negatives close to the anchor, at least 0.
        tau_plus: Probability that a negative is a false one, in [0, 1).
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
    reduction: str = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """DCL, decoupled contrastive learning: NT-Xent without the positive in the denominator.

    Args:
        z1: Projections of the first views, [n, D].
        z2: Projections of the second views, like `z1`.
        *more_views: Further views, like `z1`.
        temperature: Above 0: a number, or a tensor of shape [], which gets a gradient where it requires one.
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
    ignored_index: Tensor | None = ..., anchor_labels: Tensor | None = ..., key_labels: Tensor | None = ...,
    temperature: float | Tensor = ..., threshold: Threshold | str = ..., formulation: str = ..., beta: float = ...,
    tau_plus: float = ..., reduction: str = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def hex_loss_with_keys(
    anchors: Tensor, keys: Tensor, *, positives: Tensor | None = ..., positive_index: Tensor | None = ...,
    ignored_index: Tensor | None = ..., anchor_labels: Tensor | None = ..., key_labels: Tensor | None = ...,
    temperature: float | Tensor = ..., threshold: Threshold | str = ..., formulation: str = ..., beta: float = ...,
    tau_plus: float = ..., reduction: str = ..., gather_distributed: bool = ..., epoch: int | None = ...,
    return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
def hex_loss_with_keys(
    anchors: Tensor,
    keys: Tensor,
    *,
    positives: Tensor | None = None,
    positive_index: Tensor | None = None,
    ignored_index: Tensor | None = None,
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    threshold: Threshold | str = "adaptive",
    formulation: str = "importance",
    beta: float = 1.0,
    tau_plus: float = 0.1,
    reduction: str = "mean",
    gather_distributed: bool = False,
    epoch: int | None = None,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    """:func:`hex_loss` of anchors against other keys than themselves: a queue, a memory bank, another encoder.

    Its docstring has the formula. Each anchor's positives are given in one of two ways: apart from the keys,
    all of which are then negatives (MoCo: the momentum encoder's keys, and the queue), or as rows of the keys.
    InfoNCE against a queue is `threshold=NO_HIERARCHY`.

    Args:
        anchors: [M, D], as `z1` of :func:`hex_loss`.
        keys: [N, D], dtype and device of `anchors`. They get a gradient where they require one.
        positives: Each anchor's positive, [M, D], like `anchors`.
        positive_index: Each anchor's positives as rows of `keys`, [M] or [M, P], integers in [0, N).
        ignored_index: With `positive_index`: for each anchor the row of `keys` that is neither positive nor
            negative, [M], integers; -1 for none.
        anchor_labels: The anchors' labels, [M], integers, for the supervised threshold alone. -1 is a label
            like any other: an anchor without a label gets a number that no key has.
        key_labels: The keys' labels, [N], integers.
        temperature: Above 0: a number, or a tensor of shape [], which gets a gradient where it requires one.
        threshold: As for :func:`hex_loss`; an anchor's row is all keys, and its positive where given apart.
        formulation: "importance", "official" or "decoupled".
        beta: At least 0.
        tau_plus: In [0, 1).
        reduction: "mean", "sum" or "none".
        gather_distributed: Find the threshold over the anchors of all processes. The keys are not gathered: give each
            process the same, such as a queue. With reduction "mean" or "sum" the mean over the processes of the
            losses is then that of one process on all anchors.
        epoch: From 0; thresholds that change with the epoch need it.
        return_statistics: Also return the statistics.

    Returns:
        The loss, 0-d, or [M] for reduction "none". With `return_statistics`: the loss and its :class:`Statistics`.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: As :func:`hex_loss`; the positives are given in both ways or in none, or as `positives` that are the
            keys themselves.

    Source:
        As :func:`hex_loss`; the queue: MoCo (He et al. 2020, arXiv 1911.05722). The paper has no HEX for MoCo.

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
    anchor_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    gather_distributed: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`hex_loss_with_keys` by settings, and its statistics as one tensor, [6]."""
    check_rows("anchors", anchors)
    check_like("keys", keys, "anchors", anchors)
    if (positives is None) == (positive_index is None):
        given = "none" if positives is None else "both"
        raise ValueError(f"expected one of `positives` and `positive_index`, but got {given}")
    if positives is not None:
        check_like("positives", positives, "anchors", anchors, same_rows=True)
        if ignored_index is not None:
            raise ValueError("expected no `ignored_index` with `positives`: every key is then a negative")
        _check_apart(keys, positives)
    if positive_index is not None:
        positive_index = check_integers("positive_index", positive_index, anchors.shape[0], anchors, columns=True)
        if positive_index.dim() == 1:
            positive_index = positive_index.unsqueeze(1)
    if ignored_index is not None:
        ignored_index = check_integers("ignored_index", ignored_index, anchors.shape[0], anchors)
    pairing: dict[str, Any] = {
        "keys": keys,
        "positives": positives,
        "positive_index": positive_index,
        "ignored_index": ignored_index,
        "anchor_labels": read_labels(settings, threshold, "anchor_labels", anchor_labels, anchors),
        "key_labels": read_labels(settings, threshold, "key_labels", key_labels, keys),
    }
    if gather_distributed and is_distributed():
        return contrast_with_shared_keys(anchors, settings, **pairing)
    return contrast([anchors], settings, **pairing)


def _check_apart(keys: Tensor, positives: Tensor) -> None:
    """Refuses positives that are rows of the keys, as far as can be told without a look at the numbers."""
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
    """The row of the keys from which on the positives are the same memory; None where they are not."""
    if keys.stride() != positives.stride() or not torch._C._is_alias_of(keys, positives):  # type: ignore[attr-defined]
        return None
    row, rest = divmod(int(positives.storage_offset()) - int(keys.storage_offset()), max(keys.stride(0), 1))
    return row if rest == 0 and 0 <= row <= keys.shape[0] - positives.shape[0] else None
