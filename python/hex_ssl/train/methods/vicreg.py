"""VICReg, with HEX beside its loss."""

from typing import ClassVar, Unpack

from torch import Tensor, nn

from hex_ssl.losses import VICRegLoss
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex, SharedBeside
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.settings import VICRegSettings


class VICReg(BesideHex):
    """Makes the views' projections agree, keeps each dimension's variance, and decorrelates the dimensions.

    The projector has three layers with batch norm between them. With HEX: alpha * 5 * HEX(z1, z2) + (1 - alpha) * loss
    (HEX supplement, S7.3.2).

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.VICRegSettings`.
        **shared: `alpha` (HEX's share), `hex_loss`, `optimizer` and `superclasses`, see :class:`BesideHex`.

    Source:
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning" (Bardes et al. 2022,
        arXiv 2105.04906).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = VICReg(SmallResNet(in_channels=1, width=8), feature_dim=32)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    hex_factor: ClassVar[float] = 5.0

    settings_class = VICRegSettings

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: VICRegSettings | None = None,
        **shared: Unpack[SharedBeside],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or VICRegSettings()
        self.projector = mlp(feature_dim, settings.hidden_dim, settings.hidden_dim, settings.output_dim)
        self.loss = VICRegLoss(
            settings.sim_weight,
            settings.var_weight,
            settings.cov_weight,
            settings.half_variance,
            gather_distributed=True,
        )

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns z1, z2."""
        return tuple(self.projector(self.backbone(view)) for view in two_views(views))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        z1, z2 = embeddings
        own: Tensor = self.loss(z1, z2)
        terms = {} if self.loss.terms is None else self.loss.terms._asdict()
        return self.beside_hex(own, z1, z2, batch, **terms)
