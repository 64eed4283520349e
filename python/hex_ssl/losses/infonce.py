"""InfoNCE in one direction as a module."""

from torch import Tensor

from hex_ssl.losses.baseline import SimpleLoss
from hex_ssl.towers import infonce_loss


class InfoNCELoss(SimpleLoss):
    """InfoNCE of anchors against keys: :func:`hex_ssl.functional.infonce_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. A parameter is registered with the module.
        gather_distributed: Compare with the keys of all processes.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: An argument is out of its range.

    Source:
        CPC (van den Oord et al. 2018, arXiv 1807.03748), equation 4.

    Example:
        >>> import torch
        >>> InfoNCELoss(temperature=1.0)(torch.eye(4), torch.eye(4))  # log(e + 3) - 1
        tensor(0.7437)
    """

    def __init__(
        self, temperature: float | Tensor = 0.1, gather_distributed: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)

    def forward(
        self, anchors: Tensor, keys: Tensor, positive_index: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """The loss of anchors [M, D] against keys [N, D]. See :func:`hex_ssl.functional.infonce_loss`."""
        return infonce_loss(
            anchors,
            keys,
            positive_index=positive_index,
            temperature=self.temperature,
            weights=weights,
            reduction=self.reduction,
            gather_distributed=self.gather_distributed,
        )
