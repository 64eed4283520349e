"""InfoNCE in one direction as a module."""

from torch import Tensor

from hex_ssl.losses.two_towers import TwoTowerLoss
from hex_ssl.towers import loss_in_one_direction


class InfoNCELoss(TwoTowerLoss):
    """InfoNCE of anchors against keys: :func:`hex_ssl.functional.infonce_loss` as a module.

    Args:
        temperature: A number above 0, or a tensor of shape []. A parameter is registered with the module. Pass a tensor
            that is computed at each step to :meth:`forward`.
        gather_distributed: Compare with the keys of all processes.
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
        CPC (van den Oord et al. 2018, arXiv 1807.03748), equation 4.

    Example:
        >>> import torch
        >>> InfoNCELoss(temperature=1.0)(torch.eye(4), torch.eye(4))  # log(e + 3) - 1
        tensor(0.7437)
        >>> from hex_ssl.thresholds import MarginThreshold
        >>> criterion = InfoNCELoss(temperature=1.0, threshold=MarginThreshold(-0.5), formulation="elimination")
        >>> criterion(torch.eye(4)[:2], torch.eye(4)[[0, 1, 1]])  # log(e + 2) - 1 and log(e + 1) - 1
        tensor(0.4324)
    """

    def forward(
        self,
        anchors: Tensor,
        keys: Tensor,
        positive_index: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        ignored_index: Tensor | None = None,
        own_negatives: Tensor | None = None,
        anchor_labels: Tensor | None = None,
        key_labels: Tensor | None = None,
        temperature: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of anchors [M, D] against keys [N, D]. See :func:`hex_ssl.functional.infonce_loss`.

        `temperature` replaces that of the module.
        """
        loss, self._last.statistics = loss_in_one_direction(
            anchors,
            keys,
            self.threshold,
            self._settings(temperature),
            positive_index=positive_index,
            ignored_index=ignored_index,
            own_negatives=own_negatives,
            anchor_labels=anchor_labels,
            key_labels=key_labels,
            weights=weights,
            gather_distributed=self.gather_distributed,
        )
        return loss
