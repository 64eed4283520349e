"""NNCLR, with HEX in place of its loss."""

from typing import Unpack

from torch import Tensor, nn

from hex_ssl.queue import Queue
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, projection_std, two_views
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.neighbours import NeighbourContrast, SharedNeighbours
from hex_ssl.train.methods.settings import NNCLRSettings


class NNCLR(NeighbourContrast):
    """SimCLR in which the positive of a view is the other view's nearest neighbour in a queue.

    The projector has three layers with batch norm, also on its output. The predictor has two layers with batch norm
    between them. Neighbours are found with the L2-normalised projections, in a queue of earlier first views. HEX
    replaces the loss: see :class:`NeighbourContrast`.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.NNCLRSettings`.
        **shared: `temperature`, `hex_loss`, `optimizer` and `superclasses`, see :class:`NeighbourContrast`.

    Source:
        "With a Little Help from My Friends" (Dwibedi et al. 2021, arXiv 2104.14548).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> settings = NNCLRSettings(queue_size=256)
        >>> method = NNCLR(SmallResNet(in_channels=1, width=8), feature_dim=32, settings=settings)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = NNCLRSettings

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: NNCLRSettings | None = None,
        **shared: Unpack[SharedNeighbours],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or NNCLRSettings()
        self.projector = mlp(
            feature_dim, settings.hidden_dim, settings.hidden_dim, settings.output_dim, output_norm="affine"
        )
        self.predictor = mlp(settings.output_dim, settings.predictor_dim, settings.output_dim)
        self.queue = Queue(settings.queue_size, settings.output_dim)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns p1, p2, z1, z2. Only the predictions carry gradients to the networks."""
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(views))
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        p1, p2, z1, z2 = embeddings
        (neighbours1, found), (neighbours2, _) = (self.queue.neighbours(z) for z in (z1, z2))
        loss, statistics = self.neighbour_loss(neighbours1[:, 0], neighbours2[:, 0], p1, p2, batch)
        self.figures = {
            "projection_std": projection_std(z1, z2),
            "neighbour_purity": neighbour_purity(found[:, 0], batch.labels),
            "queue_fill": self.queue.fill,
            **statistics,
        }
        return loss

    def after_loss(self, embeddings: Embeddings, batch: Batch) -> None:
        """Puts the first views' projections into the queue."""
        self.queue.enqueue(embeddings[2], batch.labels)


def neighbour_purity(found: Tensor, labels: Tensor) -> Tensor:
    """The share of images whose neighbour has the same class, 0-d. Images without a label count as misses."""
    return ((found == labels) & (labels >= 0)).double().mean()
