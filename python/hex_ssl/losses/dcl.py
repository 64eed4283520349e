"""DCL as a module."""

from torch import Tensor, nn

from hex_ssl.functional import NO_HIERARCHY, hex_loss
from hex_ssl.statistics import Statistics
from hex_ssl.validation import check_settings


class DCLLoss(nn.Module):
    """DCL, NT-Xent without the positive in the denominator: :func:`hex_ssl.functional.dcl_loss` as a module.

    Args:
        temperature: Above 0.
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward; None before the first.

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

    def __init__(self, temperature: float = 0.1, gather_distributed: bool = False, reduction: str = "mean") -> None:
        super().__init__()
        check_settings(temperature=temperature, reduction=reduction)
        self.temperature = temperature
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
            threshold=NO_HIERARCHY,
            formulation="decoupled",
            reduction=self.reduction,
            gather_distributed=self.gather_distributed,
            return_statistics=True,
        )
        return loss

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return (
            f"temperature={self.temperature}, gather_distributed={self.gather_distributed}, "
            f"reduction={self.reduction!r}"
        )
