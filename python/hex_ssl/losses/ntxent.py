"""NT-Xent as a module."""

from torch import Tensor

from hex_ssl.choices import Reduction
from hex_ssl.losses.baseline import BaselineLoss


class NTXentLoss(BaselineLoss):
    """NT-Xent (InfoNCE), SimCLR's loss: :func:`hex_ssl.functional.ntxent_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range.

    Source:
        SimCLR (Chen et al. 2020, arXiv 2002.05709).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> NTXentLoss(temperature=1.0)(z, z)  # log(e + 6) - 1
        tensor(1.1654)
    """

    def __init__(
        self, temperature: float | Tensor = 0.5, gather_distributed: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)
