"""SimSiam, with HEX beside its loss."""

from typing import Any, Unpack

from torch import Tensor, nn

from hex_ssl.losses import SimSiamLoss
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, two_views
from hex_ssl.train.methods.beside import BesideHex, SharedBeside
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.settings import SimSiamSettings


class SimSiam(BesideHex):
    """Predicts, from each view, the projection of the other view, without a gradient through that projection.

    The projector has three layers with batch norm, also on its output, where batch norm has no weights. The predictor
    is a bottleneck of two layers with batch norm between them, and learns at a constant rate. The loss is the mean of
    both directions. With HEX: alpha * HEX(z1, z2) + (1 - alpha) * loss, on the projections, with gradients through
    both. The HEX paper does not cover SimSiam: this is ours.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.SimSiamSettings`.
        **shared: `alpha` (HEX's share), `hex_loss`, `optimizer` and `superclasses`, see :class:`BesideHex`.

    Source:
        "Exploring Simple Siamese Representation Learning" (Chen and He 2021, arXiv 2011.10566).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = SimSiam(SmallResNet(in_channels=1, width=8), feature_dim=32)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = SimSiamSettings

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: SimSiamSettings | None = None,
        **shared: Unpack[SharedBeside],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or SimSiamSettings()
        # Batch norm cancels any bias before it.
        dims = (feature_dim, settings.hidden_dim, settings.hidden_dim, settings.output_dim)
        self.projector = mlp(*dims, bias=False, output_norm="plain")
        self.predictor = mlp(settings.output_dim, settings.predictor_dim, settings.output_dim)
        self.loss = SimSiamLoss()

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns p1, p2, z1, z2."""
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(views))
        return self.predictor(z1), self.predictor(z2), z1, z2

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        p1, p2, z1, z2 = embeddings
        own: Tensor = (self.loss(p1, z2) + self.loss(p2, z1)) / 2
        return self.beside_hex(own, z1, z2, batch)

    def own_groups(self) -> list[dict[str, Any]]:
        """The predictor, whose learning rate is constant (section 3 of the paper, "baseline settings")."""
        return [{"params": list(self.predictor.parameters()), "constant_learning_rate": True}]
