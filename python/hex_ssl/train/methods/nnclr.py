"""NNCLR, with HEX in place of its loss."""

from torch import Tensor, nn

from hex_ssl.losses import HexLoss
from hex_ssl.queue import Queue
from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, Method, projection_std, two_views
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.neighbours import NeighbourContrast


class NNCLR(Method):
    """As SimCLR, but the positive of a view is the nearest neighbour, in a queue, of the other view.

    The projector has three layers with batch norm, also on its output; the predictor two with batch norm between. The
    neighbours are those of the L2-normalised projections in the queue of earlier first views. HEX replaces the loss:
    see :class:`NeighbourContrast`.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        hidden_dim: Width of the projector's hidden layers.
        output_dim: D.
        predictor_dim: Width of the predictor's hidden layer.
        queue_size: Rows of the queue.
        temperature: Above 0.
        hex_loss: HEX, or None for the method alone.
        optimizer: The optimizer and its schedule.
        superclasses: See :class:`Method`.

    Source:
        "With a Little Help from My Friends" (Dwibedi et al. 2021, arXiv 2104.14548).

    Example:
        >>> import torch
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = NNCLR(SmallResNet(in_channels=1, width=8), feature_dim=32, queue_size=256)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden_dim: int = 2048,
        output_dim: int = 256,
        predictor_dim: int = 4096,
        queue_size: int = 98304,
        temperature: float = 0.1,
        hex_loss: HexLoss | None = None,
        optimizer: OptimizerConfig | None = None,
        superclasses: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, superclasses)
        self.projector = mlp(feature_dim, hidden_dim, hidden_dim, output_dim, output_norm="affine")
        self.predictor = mlp(output_dim, predictor_dim, output_dim)
        self.queue = Queue(queue_size, output_dim)
        self.contrast = NeighbourContrast(temperature, hex_loss)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """p1, p2, z1, z2; no gradient goes through z1 and z2 beside that through the predictions."""
        z1, z2 = (self.projector(self.backbone(view)) for view in two_views(views))
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        p1, p2, z1, z2 = embeddings
        (neighbours1, found), (neighbours2, _) = (self.queue.neighbours(z) for z in (z1, z2))
        hex_loss = self.contrast.hex_loss
        labels = None if hex_loss is None else self.labels_for(hex_loss, batch)
        loss: Tensor = self.contrast(neighbours1[:, 0], neighbours2[:, 0], p1, p2, labels)
        self._figures = {
            "projection_std": projection_std(z1, z2),
            "neighbour_purity": neighbour_purity(found[:, 0], batch.labels),
            "queue_fill": self.queue.fill,
            **self.contrast.figures,
        }
        return loss

    def after_loss(self, embeddings: Embeddings, batch: Batch) -> None:
        """Puts the first views' projections into the queue."""
        self.queue.enqueue(embeddings[2], batch.labels)


def neighbour_purity(found: Tensor, labels: Tensor) -> Tensor:
    """The share of images whose neighbour has their class, 0-d; those without a label count as without."""
    return ((found == labels) & (labels >= 0)).double().mean()
