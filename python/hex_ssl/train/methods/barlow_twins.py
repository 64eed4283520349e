"""Barlow Twins, with HEX beside its loss."""

from torch import Tensor, nn

from hex_ssl.losses import BarlowTwinsLoss, HexLoss
from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex
from hex_ssl.train.methods.heads import mlp


class BarlowTwins(BesideHex):
    """The views' projections correlate dimension by dimension, and different dimensions do not.

    The projector has three layers with batch norm between. With HEX: alpha * HEX(z1, z2) + (1 - alpha) * loss
    (HEX supplement, S7.3.2).

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D.
        lamb: Weight of the off-diagonal terms.
        scale: Factor of the whole loss. solo-learn's recipes and the HEX paper have 0.1.
        sync_statistics: Take the batch statistics over all processes; solo-learn does not.
        hex_loss: HEX, or None for the method alone.
        alpha: HEX's share, in [0, 1].
        optimizer: The optimizer and its schedule.
        superclasses: See :class:`Method`.

    Source:
        "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (Zbontar et al. 2021, arXiv 2103.03230).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = BarlowTwins(SmallResNet(in_channels=1, width=8), feature_dim=32, hidden_dim=64, output_dim=64)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 8192,
        output_dim: int = 8192,
        lamb: float = 0.005,
        scale: float = 1.0,
        sync_statistics: bool = True,
        hex_loss: HexLoss | None = None,
        alpha: float = 0.1,
        optimizer: OptimizerConfig | None = None,
        superclasses: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, hex_loss, alpha, optimizer, superclasses)
        self.projector = mlp(feature_dim, hidden_dim, hidden_dim, output_dim)
        self.loss = BarlowTwinsLoss(lamb, scale, sync_statistics, gather_distributed=True)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """z1, z2."""
        return tuple(self.projector(self.backbone(view)) for view in two_views(views))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        z1, z2 = embeddings
        own: Tensor = self.loss(z1, z2)
        terms = {} if self.loss.terms is None else self.loss.terms._asdict()
        return self.beside_hex(own, z1, z2, batch, **terms)
