"""CLIP's loss as a module."""

from torch import Tensor

from hex_ssl.choices import Formulation, Reduction, ThresholdName
from hex_ssl.losses.two_towers import TwoTowerLoss
from hex_ssl.thresholds import NO_HIERARCHY, Threshold
from hex_ssl.towers import loss_of_towers


class CLIPLoss(TwoTowerLoss):
    """CLIP's symmetric loss of two towers: :func:`hex_ssl.functional.clip_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. A parameter is registered with the module. Pass a tensor
            that is computed at each step, such as `1 / logit_scale.exp()`, to :meth:`forward`.
        gather_distributed: Compare with the other tower's rows of all processes.
        reduction: "mean", "sum" or "none".
        threshold: Which negatives are hierarchical, by default none. A strategy that does not change with the epoch.
        formulation: "importance", "official", "decoupled", or "elimination", which leaves out the hierarchical
            negatives.
        beta: At least 0.
        tau_plus: In [0, 1).

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
        >>> criterion = CLIPLoss(temperature=1.0, threshold="supervised", formulation="elimination")
        >>> criterion(images, texts, labels=torch.tensor([0, 0, 1, 2]))  # two of four rows have two negatives left
        tensor(0.6476)
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        gather_distributed: bool = False,
        reduction: Reduction = "mean",
        *,
        threshold: Threshold | ThresholdName = NO_HIERARCHY,
        formulation: Formulation = "importance",
        beta: float = 1.0,
        tau_plus: float = 0.1,
    ) -> None:
        super().__init__(
            temperature,
            gather_distributed,
            reduction,
            threshold=threshold,
            formulation=formulation,
            beta=beta,
            tau_plus=tau_plus,
        )

    def forward(
        self, z1: Tensor, z2: Tensor, *, temperature: float | Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """The loss of the embeddings of two towers, [N, D] each.

        `temperature` replaces that of the module; where open_clip's ClipLoss takes `logit_scale`, pass
        `temperature=1 / logit_scale`. `labels` are those of the pairs, integers [N], for the supervised
        threshold. See :func:`hex_ssl.functional.clip_loss`.
        """
        settings = self._settings(temperature)
        loss, self._last.statistics = loss_of_towers(z1, z2, self.threshold, settings, labels, self.gather_distributed)
        return loss
