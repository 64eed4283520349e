"""SupCon as a module."""

from torch import Tensor

from hex_ssl.choices import Reduction
from hex_ssl.losses.baseline import LossWithStatistics, SimpleLoss
from hex_ssl.supervised import loss_of_labels, supcon_settings


class SupConLoss(SimpleLoss, LossWithStatistics):
    """SupCon, the supervised contrastive loss: :func:`hex_ssl.functional.supcon_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. A parameter is registered with the module.
        gather_distributed: Compare with the rows of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range.

    Source:
        SupCon (Khosla et al. 2020, arXiv 2004.11362), equation 2.

    Example:
        >>> import torch
        >>> SupConLoss(temperature=1.0)(torch.eye(4), labels=torch.tensor([0, 0, 1, 1]))  # log(3)
        tensor(1.0986)
    """

    def __init__(
        self, temperature: float | Tensor = 0.1, gather_distributed: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)

    def forward(self, z1: Tensor, *more_views: Tensor, labels: Tensor) -> Tensor:
        """The loss of the projections of one or more views, each [n, D], with the labels of the samples [n]."""
        settings = supcon_settings(self.temperature, self.reduction)
        loss, self._last.statistics = loss_of_labels([z1, *more_views], settings, labels, self.gather_distributed)
        return loss
