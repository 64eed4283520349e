"""HCL as a module."""

from torch import Tensor

from hex_ssl.choices import Reduction
from hex_ssl.functional import ALL_HIERARCHICAL
from hex_ssl.losses.baseline import BaselineLoss


class HCLLoss(BaselineLoss):
    """HCL, which reweights all negatives by their hardness: :func:`hex_ssl.functional.hcl_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. The tensor gets a gradient if it requires one.
        beta: Concentration on the negatives close to the anchor, at least 0.
        tau_plus: Probability that a negative is a false negative, in [0, 1).
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range.

    Source:
        "Contrastive Learning with Hard Negative Samples" (Robinson et al. 2021, arXiv 2010.04592).

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> HCLLoss(temperature=1.0, beta=0.0, tau_plus=0.0)(z, z)  # NT-Xent
        tensor(1.1654)
    """

    shown = ("temperature", "beta", "tau_plus", "gather_distributed", "reduction")
    threshold = ALL_HIERARCHICAL
    beta: float
    tau_plus: float

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        beta: float = 1.0,
        tau_plus: float = 0.1,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction, beta=beta, tau_plus=tau_plus)
