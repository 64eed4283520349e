"""HCL as a module."""

from torch import Tensor, nn

from hex_ssl.functional import ALL_HIERARCHICAL, hex_loss
from hex_ssl.statistics import Statistics
from hex_ssl.validation import check_settings


class HCLLoss(nn.Module):
    """HCL, all negatives reweighted by their hardness: :func:`hex_ssl.functional.hcl_loss` as a module.

    Args:
        temperature: Above 0.
        beta: Concentration on the negatives close to the anchor, at least 0.
        tau_plus: Probability that a negative is a false one, in [0, 1).
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward; None before the first.

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

    def __init__(
        self,
        temperature: float = 0.5,
        beta: float = 1.0,
        tau_plus: float = 0.1,
        gather_distributed: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_settings(temperature=temperature, beta=beta, tau_plus=tau_plus, reduction=reduction)
        self.temperature = temperature
        self.beta = beta
        self.tau_plus = tau_plus
        self.gather_distributed = gather_distributed
        self.reduction = reduction
        self.statistics: Statistics | None = None

    def forward(self, z1: Tensor, z2: Tensor, *more_views: Tensor) -> Tensor:
        """The loss of projections of the views, each [n, D]; see :func:`hex_ssl.functional.hex_loss`."""
        loss, self.statistics = hex_loss(
            z1,
            z2,
            *more_views,
            temperature=self.temperature,
            threshold=ALL_HIERARCHICAL,
            beta=self.beta,
            tau_plus=self.tau_plus,
            reduction=self.reduction,
            gather_distributed=self.gather_distributed,
            return_statistics=True,
        )
        return loss

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return (
            f"temperature={self.temperature}, beta={self.beta}, tau_plus={self.tau_plus}, "
            f"gather_distributed={self.gather_distributed}, reduction={self.reduction!r}"
        )
