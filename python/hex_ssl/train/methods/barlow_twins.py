"""Barlow Twins, with HEX beside its loss."""

from typing import Unpack

from torch import Tensor, nn

from hex_ssl.losses import BarlowTwinsLoss
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex, SharedBeside
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.settings import BarlowTwinsSettings


class BarlowTwins(BesideHex):
    """Correlates each dimension of two views' projections, and decorrelates different dimensions.

    The projector has three layers with batch norm between them. With HEX: alpha * HEX(z1, z2) + (1 - alpha) * loss (HEX
    supplement, S7.3.2).

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.BarlowTwinsSettings`.
        **shared: `alpha` (HEX's share), `hex_loss`, `optimizer` and `superclasses`, see :class:`BesideHex`.

    Source:
        "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (Zbontar et al. 2021, arXiv 2103.03230).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = BarlowTwins(SmallResNet(in_channels=1, width=8), feature_dim=32)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = BarlowTwinsSettings

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: BarlowTwinsSettings | None = None,
        **shared: Unpack[SharedBeside],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or BarlowTwinsSettings()
        self.projector = mlp(feature_dim, settings.hidden_dim, settings.hidden_dim, settings.output_dim)
        self.loss = BarlowTwinsLoss(settings.lamb, settings.scale, settings.sync_statistics, gather_distributed=True)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns z1, z2."""
        return tuple(self.projector(self.backbone(view)) for view in two_views(views))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        z1, z2 = embeddings
        own: Tensor = self.loss(z1, z2)
        terms = {} if self.loss.terms is None else self.loss.terms._asdict()
        return self.beside_hex(own, z1, z2, batch, **terms)
