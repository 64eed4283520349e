"""MoCo's loss, as a function and as a module."""

from torch import Tensor, nn

from hex_ssl.choices import Reduction
from hex_ssl.distributed import check_gathering
from hex_ssl.functional import NO_HIERARCHY, hex_loss_with_keys
from hex_ssl.validation import check_settings


def moco_loss(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    *,
    temperature: float = 0.2,
    reduction: Reduction = "mean",
    gather_distributed: bool = False,
) -> Tensor:
    """MoCo's loss: InfoNCE with the negatives from a queue.

    With the cosine similarity c(a, b)::

        L_i = -log( exp(c(q_i, k_i) / T) / (exp(c(q_i, k_i) / T) + sum_j exp(c(q_i, queue_j) / T)) )

    with q -> `queries`, k -> `keys`, T -> `temperature`. This is :func:`hex_ssl.functional.hex_loss_with_keys` without
    hierarchical negatives.

    Args:
        queries: Projections of one view, [n, D], float64, float32, bfloat16 or float16.
        keys: The momentum encoder's projections of the other view, like `queries`. No gradient flows through them.
        queue: Keys of earlier batches, [K, D], the same on each process. No gradient flows through them.
        temperature: A number above 0.
        reduction: "mean", "sum" or "none".
        gather_distributed: Weight each process by its number of images. With reduction "mean" or "sum", the mean of the
            losses over the processes then equals the loss of one process on the joined batch, for any batch sizes.

    Returns:
        The loss, 0-d, or [n] for reduction "none". It is float64 for float64 inputs, else float32.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: Shapes, dtypes or devices differ, a number is out of its range, or a row is all zeros or not finite.

    Source:
        MoCo (He et al. 2020, arXiv 1911.05722), equation 1; MoCo v2 (Chen et al. 2020, arXiv 2003.04297).

    Example:
        >>> import torch
        >>> moco_loss(torch.eye(4)[:2], torch.eye(4)[:2], torch.eye(4)[2:], temperature=1.0)  # log(e + 2) - 1
        tensor(0.5514)
    """
    return hex_loss_with_keys(
        queries,
        queue.detach(),
        positives=keys.detach(),
        temperature=temperature,
        threshold=NO_HIERARCHY,
        reduction=reduction,
        gather_distributed=gather_distributed,
    )


class MoCoLoss(nn.Module):
    """:func:`moco_loss` as a module.

    Args:
        temperature: A number above 0.
        gather_distributed: Weight each process by its number of images.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: An argument is out of its range.

    Source:
        MoCo (He et al. 2020, arXiv 1911.05722), equation 1; MoCo v2 (Chen et al. 2020, arXiv 2003.04297).

    Example:
        >>> import torch
        >>> MoCoLoss(temperature=1.0)(torch.eye(4)[:2], torch.eye(4)[:2], torch.eye(4)[2:])
        tensor(0.5514)
    """

    def __init__(
        self, temperature: float = 0.2, gather_distributed: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_settings(temperature=temperature, reduction=reduction, loss=type(self))
        self.temperature = temperature
        check_gathering(gather_distributed)
        self.gather_distributed = gather_distributed
        self.reduction = reduction

    def forward(self, queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
        """The loss of queries [n, D], keys [n, D] and a queue [K, D]."""
        return moco_loss(
            queries,
            keys,
            queue,
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
