"""CLIP's loss as a module."""

from torch import Tensor

from hex_ssl.contrast import Settings
from hex_ssl.losses.baseline import LossWithStatistics, SimpleLoss
from hex_ssl.thresholds import NO_HIERARCHY
from hex_ssl.towers import loss_of_towers


class CLIPLoss(SimpleLoss, LossWithStatistics):
    """CLIP's symmetric loss of two towers: :func:`hex_ssl.functional.clip_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. A parameter is registered with the module. Pass a tensor
            that is computed at each step, such as `1 / logit_scale.exp()`, to :meth:`forward`.
        gather_distributed: Compare with the other tower's rows of all processes.
        reduction: "mean", "sum" or "none".

    Attributes:
        statistics: The :class:`Statistics` of the last forward. None before the first forward.

    Raises:
        ValueError: An argument is out of its range.

    Source:
        CLIP (Radford et al. 2021, arXiv 2103.00020), figure 3.

    Example:
        >>> import torch
        >>> images, texts = torch.eye(4), torch.eye(4)
        >>> CLIPLoss(temperature=1.0)(images, texts)  # log(e + 3) - 1
        tensor(0.7437)
    """

    def __init__(
        self, temperature: float | Tensor = 0.07, gather_distributed: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(temperature, gather_distributed, reduction)

    def forward(self, z1: Tensor, z2: Tensor, temperature: float | Tensor | None = None) -> Tensor:
        """The loss of the embeddings of two towers, [N, D] each. `temperature` replaces that of the module."""
        chosen = self.temperature if temperature is None else temperature
        settings = Settings.of(NO_HIERARCHY, 0, "importance", 1.0, 0.1, chosen, self.reduction)
        loss, self._last.statistics = loss_of_towers(z1, z2, NO_HIERARCHY, settings, None, self.gather_distributed)
        return loss
