"""SupCon, the supervised contrastive loss."""

from typing import Literal, overload

from torch import Tensor

from hex_ssl.choices import Reduction
from hex_ssl.contrast import Settings, contrast, contrast_gathered
from hex_ssl.distributed import is_distributed
from hex_ssl.statistics import Statistics
from hex_ssl.validation import check_integers, check_rows, check_types, check_views


@overload
def supcon_loss(
    z1: Tensor, *more_views: Tensor, labels: Tensor, temperature: float | Tensor = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., return_statistics: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def supcon_loss(
    z1: Tensor, *more_views: Tensor, labels: Tensor, temperature: float | Tensor = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., return_statistics: Literal[True],
) -> tuple[Tensor, Statistics]: ...  # fmt: skip
@overload
def supcon_loss(
    z1: Tensor, *more_views: Tensor, labels: Tensor, temperature: float | Tensor = ..., reduction: Reduction = ...,
    gather_distributed: bool = ..., return_statistics: bool,
) -> Tensor | tuple[Tensor, Statistics]: ...  # fmt: skip
def supcon_loss(
    z1: Tensor,
    *more_views: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, Statistics]:
    """SupCon, the supervised contrastive loss: all rows with the anchor's label are positives (L_out of the paper).

    The V views of n samples, concatenated to [V * n, D], are the rows i. This function L2-normalises them. With the
    cosine similarity c_ij, s_ij = c_ij / temperature, and P(i) the other rows with the label of row i::

        L_i = log( sum_{j != i} exp(s_ij) ) - mean_{p in P(i)} s_ip

    P(i) includes the other views of the same sample. The denominator contains all other rows, also the positives. A row
    without a positive has no loss: it is left out of the mean and counted in the statistics. The memory is O(N D).

    Args:
        z1: Projections, [n, D], float64, float32, bfloat16 or float16, at any scale. No row may be all zeros.
        *more_views: Further views of the same samples, like `z1`. One view is enough.
        labels: The labels of the samples, integers [n]. -1 is a label like any other.
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        reduction: "mean" over the rows that have a loss, "sum", or "none".
        gather_distributed: Compare with the rows of all processes. With reduction "mean" or "sum", the mean of the
            losses over the processes equals the loss of one process on the joined batch.
        return_statistics: Also return the statistics. Their `hierarchical_negatives` is the mean number of positives,
            without the other views of the same sample.

    Returns:
        The loss, 0-d, or [V * n] for reduction "none" (0 where it is undefined). It is float64 for float64 inputs, else
        float32. With `return_statistics`, the loss and its :class:`Statistics`.

    Raises:
        TypeError: A view or `labels` is not a tensor.
        ValueError: Shapes, dtypes or devices differ, an argument is out of its range, or a row is all zeros or not
            finite.

    Source:
        SupCon (Khosla et al. 2020, arXiv 2004.11362), equation 2.

    Example:
        >>> import torch
        >>> supcon_loss(torch.eye(4), labels=torch.tensor([0, 0, 1, 1]), temperature=1.0)  # log(3)
        tensor(1.0986)
    """
    settings = supcon_settings(temperature, reduction)
    loss, statistics = loss_of_labels([z1, *more_views], settings, labels, gather_distributed)
    return (loss, Statistics(*statistics.unbind())) if return_statistics else loss


def supcon_settings(temperature: float | Tensor, reduction: Reduction) -> Settings:
    """SupCon as a point of the losses: the positives are the "hierarchical negatives", all of weight 1."""
    check_types(temperature, "importance", 0.0, 0.0, reduction)
    return Settings("labels", 0.0, "supervised", 0.0, 0.0, temperature, reduction)


def loss_of_labels(
    views: list[Tensor], settings: Settings, labels: Tensor, gather_distributed: bool
) -> tuple[Tensor, Tensor]:
    """:func:`supcon_loss` with :class:`Settings`. Returns the loss and the statistics [6]."""
    if len(views) == 1:
        check_rows("z1", views[0])
    else:
        check_views(views)
    rows = views[0]
    anchor_labels = check_integers("labels", labels, rows.shape[0], rows).repeat(len(views))
    if gather_distributed and is_distributed():
        return contrast_gathered(views, settings, anchor_labels)
    return contrast(views, settings, anchor_labels=anchor_labels)
