"""SimSiam, with HEX beside its loss."""

from typing import Any

from torch import Tensor, nn

from hex_ssl.losses import HexLoss, SimSiamLoss
from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex
from hex_ssl.train.methods.heads import mlp


class SimSiam(BesideHex):
    """Each view predicts the other's projection, through which no gradient goes.

    The projector has three layers with batch norm, also on its output, there without weights; the predictor is a
    bottleneck of two with batch norm between, and learns at a constant rate. The loss is the mean of both directions.
    With HEX: alpha * HEX(z1, z2) + (1 - alpha) * loss, on the projections, with gradient through both. The HEX paper
    has none for SimSiam: this is ours.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D.
        predictor_dim: Width of the predictor's hidden layer.
        hex_loss: HEX, or None for the method alone.
        alpha: HEX's share, in [0, 1].
        optimizer: The optimizer and its schedule.
        superclasses: See :class:`Method`.

    Source:
        "Exploring Simple Siamese Representation Learning" (Chen and He 2021, arXiv 2011.10566).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = SimSiam(SmallResNet(in_channels=1, width=8), feature_dim=32, hidden_dim=64, output_dim=64)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 2048,
        output_dim: int = 2048,
        predictor_dim: int = 512,
        hex_loss: HexLoss | None = None,
        alpha: float = 0.1,
        optimizer: OptimizerConfig | None = None,
        superclasses: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, hex_loss, alpha, optimizer, superclasses)
        # The batch norms take away any bias before them.
        self.projector = mlp(feature_dim, hidden_dim, hidden_dim, output_dim, bias=False, output_norm="plain")
        self.predictor = mlp(output_dim, predictor_dim, output_dim)
        self.loss = SimSiamLoss()

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """p1, p2, z1, z2."""
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(views))
        return self.predictor(z1), self.predictor(z2), z1, z2

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        p1, p2, z1, z2 = embeddings
        own: Tensor = (self.loss(p1, z2) + self.loss(p2, z1)) / 2
        return self.beside_hex(own, z1, z2, batch)

    def own_groups(self) -> list[dict[str, Any]]:
        """The predictor, whose learning rate stays (section 3 of the paper, "baseline settings")."""
        return [{"params": list(self.predictor.parameters()), "constant_learning_rate": True}]
