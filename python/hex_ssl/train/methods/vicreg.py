"""VICReg, with HEX beside its loss."""

from typing import ClassVar

from torch import Tensor, nn

from hex_ssl.losses import HexLoss, VICRegLoss
from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex
from hex_ssl.train.methods.heads import mlp


class VICReg(BesideHex):
    """The views' projections agree, each dimension keeps its spread, and no two dimensions say the same.

    The projector has three layers with batch norm between. With HEX: alpha * 5 * HEX(z1, z2) + (1 - alpha) * loss
    (HEX supplement, S7.3.2).

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D.
        sim_weight: Weight of the invariance term.
        var_weight: Weight of the variance term.
        cov_weight: Weight of the covariance term.
        half_variance: The mean of the two views' variance terms, as in the authors' code; otherwise their sum, as in
            solo-learn.
        hex_loss: HEX, or None for the method alone.
        alpha: HEX's share, in [0, 1].
        optimizer: The optimizer and its schedule.
        superclasses: See :class:`Method`.

    Source:
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning" (Bardes et al. 2022,
        arXiv 2105.04906).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = VICReg(SmallResNet(in_channels=1, width=8), feature_dim=32, hidden_dim=64, output_dim=64)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    hex_factor: ClassVar[float] = 5.0

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 8192,
        output_dim: int = 8192,
        sim_weight: float = 25.0,
        var_weight: float = 25.0,
        cov_weight: float = 1.0,
        half_variance: bool = True,
        hex_loss: HexLoss | None = None,
        alpha: float = 0.1,
        optimizer: OptimizerConfig | None = None,
        superclasses: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, hex_loss, alpha, optimizer, superclasses)
        self.projector = mlp(feature_dim, hidden_dim, hidden_dim, output_dim)
        self.loss = VICRegLoss(sim_weight, var_weight, cov_weight, half_variance, gather_distributed=True)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """z1, z2."""
        return tuple(self.projector(self.backbone(view)) for view in two_views(views))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        z1, z2 = embeddings
        own: Tensor = self.loss(z1, z2)
        terms = {} if self.loss.terms is None else self.loss.terms._asdict()
        return self.beside_hex(own, z1, z2, batch, **terms)
