"""NNCLR's loss, as a function and as a module."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hex_ssl.choices import Reduction
from hex_ssl.distributed import check_gathering, gather_counts, gather_rows, is_distributed
from hex_ssl.functional import NO_HIERARCHY, hex_loss_with_keys
from hex_ssl.validation import check_like, check_rows, check_settings


def nnclr_loss(
    neighbours: Tensor,
    p: Tensor,
    *,
    temperature: float = 0.1,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """NNCLR's loss: InfoNCE in one direction, from the neighbours of one view to the predictions of the other view.

    With the cosine similarity c(a, b)::

        L_i = -log( exp(c(neighbours_i, p_i) / temperature) / sum_k exp(c(neighbours_i, p_k) / temperature) )

    This is :func:`hex_ssl.functional.hex_loss_with_keys` without hierarchical negatives. The neighbours are the
    anchors, and the predictions are the keys. The NNCLR method takes the mean of both directions.

    Args:
        neighbours: The nearest neighbour in the queue for each first view's projection, [n, D], float64, float32,
            bfloat16 or float16. They get a gradient if they require one.
        p: Predictions of the second views, like `neighbours`.
        temperature: A number above 0.
        reduction: "mean", "sum" or "none".
        gather_distributed: Compare with the predictions of all processes. With reduction "mean" or "sum", the mean of
            the losses over the processes, and DDP's mean of the gradients, equal those of one process on the joined
            batch.

    Returns:
        The loss, 0-d, or [n] for reduction "none". It is float64 for float64 inputs, else float32.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: Shapes, dtypes or devices differ, a number is out of its range, or a row is all zeros or not finite.

    Source:
        "With a Little Help from My Friends" (Dwibedi et al. 2021, arXiv 2104.14548), equation 3.

    Example:
        >>> nnclr_loss(torch.eye(4), torch.eye(4), temperature=1.0)  # log(e + 3) - 1
        tensor(0.7437)
    """
    check_rows("neighbours", neighbours)
    check_like("p", p, "neighbours", neighbours, same_rows=True)
    own = torch.arange(p.shape[0], device=p.device)
    if gather_distributed and is_distributed():
        check_settings(temperature=temperature, reduction=reduction)
        counts = gather_counts(p.shape[0], p.device)
        own, p = own + sum(counts[: dist.get_rank()]), gather_rows(p, counts)
    return hex_loss_with_keys(
        neighbours,
        p,
        positive_index=own,
        temperature=temperature,
        threshold=NO_HIERARCHY,
        reduction=reduction,
        gather_distributed=gather_distributed,
    )


class NNCLRLoss(nn.Module):
    """:func:`nnclr_loss` as a module.

    Args:
        temperature: A number above 0.
        gather_distributed: Compare with the predictions of all processes.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: An argument is out of its range.

    Source:
        "With a Little Help from My Friends" (Dwibedi et al. 2021, arXiv 2104.14548), equation 3.

    Example:
        >>> NNCLRLoss(temperature=1.0)(torch.eye(4), torch.eye(4))
        tensor(0.7437)
    """

    def __init__(
        self, temperature: float = 0.1, gather_distributed: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_settings(temperature=temperature, reduction=reduction, loss=type(self))
        self.temperature = temperature
        check_gathering(gather_distributed)
        self.gather_distributed = gather_distributed
        self.reduction = reduction

    def forward(self, neighbours: Tensor, p: Tensor) -> Tensor:
        """The loss of neighbours [n, D] of one view and predictions p [n, D] of the other view."""
        return nnclr_loss(
            neighbours,
            p,
            temperature=self.temperature,
            reduction=self.reduction,
            gather_distributed=self.gather_distributed,
        )

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return (
            f"temperature={self.temperature}, gather_distributed={self.gather_distributed}, "
            f"reduction={self.reduction!r}"
        )
