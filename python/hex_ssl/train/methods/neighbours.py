"""Methods that contrast an image's neighbours: NNCLR and All4One."""

from typing import Any, Unpack

from torch import Tensor, nn

from hex_ssl.losses import NNCLRLoss
from hex_ssl.train.config import LossConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Method, Shared, mean_statistics


class SharedNeighbours(Shared, total=False):
    """Keyword arguments of these methods' constructors: see :class:`NeighbourContrast`."""

    temperature: float


class NeighbourContrast(Method):
    """A method whose loss contrasts each view's neighbours with the other view's predictions.

    Without HEX, and during its warm-up, this is NNCLR's loss. With HEX it is SimCLR's HEX loss, with the neighbours as
    first views and the predictions as second views (HEX supplement, S7.3.2). There both are anchors, and neighbours are
    also compared with neighbours. This is a different loss, not NNCLR's loss plus a term. No gradient flows through the
    neighbours.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        temperature: Temperature of the method's own loss, above 0.
        **shared: `hex_loss`, `optimizer` and `superclasses`, see :class:`Method`.
    """

    def __init__(self, backbone: nn.Module, *, temperature: float = 0.1, **shared: Unpack[Shared]) -> None:
        super().__init__(backbone, **shared)
        self.own_loss = NNCLRLoss(temperature, gather_distributed=True)

    @classmethod
    def loss_arguments(cls, config: LossConfig, epochs: int | None = None) -> dict[str, Any]:
        """`hex_loss` and `temperature`: see :meth:`Method.loss_arguments`."""
        return {**super().loss_arguments(config, epochs), "temperature": config.temperature}

    def neighbour_loss(
        self, neighbours1: Tensor, neighbours2: Tensor, p1: Tensor, p2: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the loss of each view's neighbours with the other view's predictions, and HEX's statistics.

        Args:
            neighbours1: Nearest neighbours of the first views' projections, [N, D].
            neighbours2: Nearest neighbours of the second views' projections, [N, D].
            p1: Predictions of the first views, [N, D].
            p2: Predictions of the second views, [N, D].
            batch: The batch, for its labels.

        Returns:
            The loss, 0-d, and the statistics by name, which are empty without HEX.
        """
        pairs = ((neighbours1, p2), (neighbours2, p1))
        labels = self.labels_for(batch)
        if self.hex_loss is None or self.hex_loss.warming_up:
            first, second = (self.own_loss(neighbours.to(p.dtype), p) for neighbours, p in pairs)
            return (first + second) / 2, {}
        losses, statistics = [], []
        for neighbours, p in pairs:
            losses.append(self.hex_loss(neighbours.to(p.dtype), p, labels=labels))
            statistics.append(self.hex_loss.statistics)
        return (losses[0] + losses[1]) / 2, mean_statistics(statistics)
