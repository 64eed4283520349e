"""DCL as a module."""

from torch import Tensor

from hex_ssl.choices import Reduction
from hex_ssl.losses.baseline import BaselineLoss


class DCLLoss(BaselineLoss):
    """DCL, NT-Xent without the positive in the denominator: :func:`hex_ssl.functional.dcl_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range.

    Source:
        "Decoupled Contrastive Learning" (Yeh et al. 2022, arXiv 2110.06848).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> DCLLoss(temperature=1.0)(z, z)  # log(6) - 1
        tensor(0.7918)
    """

    formulation = "decoupled"

    def __init__(
        self, temperature: float | Tensor = 0.1, gather_distributed: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)
