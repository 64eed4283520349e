"""BYOL, with HEX beside its loss."""

from typing import Unpack

import torch
from torch import Tensor, nn

from hex_ssl.losses import BYOLLoss
from hex_ssl.momentum import MomentumEncoder
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex, SharedBeside
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.settings import BYOLSettings


class BYOL(BesideHex):
    """Predicts, from each view, the momentum encoder's projection of the other view.

    Projector and predictor have two layers with batch norm between them. The loss is the sum of both directions. With
    HEX: alpha * HEX(z1, z2) + (1 - alpha) * loss, on the online projections. The HEX paper does not cover BYOL: this is
    ours.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.BYOLSettings`.
        **shared: `alpha` (HEX's share), `hex_loss`, `optimizer` and `superclasses`, see :class:`BesideHex`.

    Source:
        "Bootstrap your own latent" (Grill et al. 2020, arXiv 2006.07733).

    Example:
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = BYOL(SmallResNet(in_channels=1, width=8), feature_dim=32)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = BYOLSettings

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: BYOLSettings | None = None,
        **shared: Unpack[SharedBeside],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or BYOLSettings()
        self.projector = mlp(feature_dim, settings.hidden_dim, settings.output_dim)
        self.predictor = mlp(settings.output_dim, settings.predictor_dim, settings.output_dim)
        self.momentum_encoder = MomentumEncoder(self._online, settings.momentum, settings.final_momentum)
        self.loss = BYOLLoss()

    @property
    def _online(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.projector)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns predictions, projections and momentum projections, each of both views."""
        views = two_views(views)
        z = [self.projector(self.backbone(view)) for view in views]
        return (*(self.predictor(each) for each in z), *z, *(self.momentum_encoder(view) for view in views))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        p1, p2, z1, z2, m1, m2 = embeddings
        own: Tensor = self.loss(p1, m2) + self.loss(p2, m1)
        momentum = own.new_full((), self.momentum_encoder.momentum, dtype=torch.float64)
        return self.beside_hex(own, z1, z2, batch, momentum=momentum)

    def after_optimizer_step(self, step: int) -> None:
        """Updates the momentum encoder."""
        self.momentum_encoder.update(self._online, step, self._total_steps)
