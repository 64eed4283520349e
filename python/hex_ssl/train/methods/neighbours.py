"""The contrast of neighbours that NNCLR and All4One share."""

from torch import Tensor, nn

from hex_ssl.losses import HexLoss, NNCLRLoss
from hex_ssl.train.methods.base import mean_statistics


class NeighbourContrast(nn.Module):
    """Half the loss of each view's neighbours with the other view's predictions.

    Without HEX, and in its warm-up: NNCLR's loss. With HEX: that of SimCLR on the neighbours as first and the
    predictions as second views (HEX supplement, S7.3.2). There both are anchors, and neighbours are also compared with
    neighbours: another loss than NNCLR's, not NNCLR's with a term more. No gradient goes through the neighbours.

    Args:
        temperature: Of NNCLR's loss.
        hex_loss: HEX, or None.
    """

    def __init__(self, temperature: float, hex_loss: HexLoss | None) -> None:
        super().__init__()
        self.own_loss = NNCLRLoss(temperature, gather_distributed=True)
        self.hex_loss = hex_loss
        self.figures: dict[str, Tensor] = {}

    def forward(
        self, neighbours1: Tensor, neighbours2: Tensor, p1: Tensor, p2: Tensor, labels: Tensor | None
    ) -> Tensor:
        """The loss, 0-d.

        Args:
            neighbours1: Nearest neighbours of the first views' projections, [N, D].
            neighbours2: Those of the second views.
            p1: Predictions of the first views, [N, D].
            p2: Those of the second views.
            labels: For the supervised threshold, [N].
        """
        pairs = ((neighbours1, p2), (neighbours2, p1))
        self.figures = {}
        if self.hex_loss is None or self.hex_loss.warming_up:
            first, second = (self.own_loss(neighbours.to(p.dtype), p) for neighbours, p in pairs)
            return (first + second) / 2
        losses, statistics = [], []
        for neighbours, p in pairs:
            losses.append(self.hex_loss(neighbours.to(p.dtype), p, labels=labels))
            statistics.append(self.hex_loss.statistics)
        self.figures = mean_statistics(statistics)
        return (losses[0] + losses[1]) / 2
