"""All4One, with HEX in its contrast of neighbours."""

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.losses import FeatureContrastLoss, NNCLRLoss
from hex_ssl.momentum import MomentumEncoder
from hex_ssl.queue import Queue
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, projection_std, two_views
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.neighbours import NeighbourContrast, SharedNeighbours
from hex_ssl.train.methods.nnclr import neighbour_purity
from hex_ssl.train.methods.settings import TRANSFORMER_HEADS, All4OneSettings

LAYERS = 3
"""Number of layers of the transformer."""


def sinusoidal_code(positions: int, channels: int) -> Tensor:
    """The sinusoidal code of positions, of shape [positions, channels].

        code[x, 2k] = sin(x / 10000^(2k / C)),  code[x, 2k + 1] = cos(x / 10000^(2k / C)),  C = `channels`, made even

    Source:
        "Attention Is All You Need" (Vaswani et al. 2017, arXiv 1706.03762), section 3.5.

    Example:
        >>> sinusoidal_code(positions=2, channels=3)
        tensor([[0.0000, 1.0000, 0.0000],
                [0.8415, 0.5403, 0.0100]])
    """
    pairs = (channels + 1) // 2
    frequencies = torch.exp(torch.arange(pairs, dtype=torch.float64) * (-math.log(10000.0) / pairs))
    angles = torch.arange(positions, dtype=torch.float64).unsqueeze(1) * frequencies
    code = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(start_dim=1)
    return code[:, :channels].float()


class All4One(NeighbourContrast):
    """Contrasts neighbours as NNCLR does, centroids of several neighbours, and features.

    A transformer turns an image's k nearest neighbours, closest first, into one centroid: its output for the first of
    them. "Shifted" neighbours give another centroid: the second predictor's output comes first, and the last neighbour
    is left out. With the projections z, predictions p, momentum projections m and NNCLR's loss L(neighbours,
    predictions)::

        loss = (neighbour + centroid + feature) / 2
        neighbour = ( L(nn(m1), p2) + L(nn(m2), p1) ) / 2
        centroid  = ( L(T(nn_1..k(m1)), T(shifted 2)) + L(T(nn_1..k(m2)), T(shifted 1)) ) / 2
        feature   = feature_contrast_loss(z1, z2, m1, m2)

    HEX replaces the neighbour term only, as in NNCLR + HEX (HEX supplement, S7.3.2).

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.All4OneSettings`.
        **shared: `temperature`, `hex_loss`, `optimizer` and `superclasses`, see :class:`NeighbourContrast`.

    Source:
        "All4One: Symbiotic Neighbour Contrastive Learning via Self-Attention and Redundancy Reduction" (Estepa et al.
        2023, arXiv 2303.09417), and its authors' code in solo-learn for details that the paper leaves open.

    Example:
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> settings = All4OneSettings(queue_size=256)
        >>> method = All4One(SmallResNet(in_channels=1, width=8), feature_dim=32, settings=settings)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = All4OneSettings

    code: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: All4OneSettings | None = None,
        **shared: Unpack[SharedNeighbours],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or All4OneSettings()
        self.projector = mlp(
            feature_dim, settings.hidden_dim, settings.hidden_dim, settings.output_dim, output_norm="affine"
        )
        width = settings.output_dim
        self.predictor = mlp(width, settings.predictor_dim, width)
        self.centroid_predictor = mlp(width, settings.predictor_dim, width)
        layer = nn.TransformerEncoderLayer(width, TRANSFORMER_HEADS, dim_feedforward=2 * width, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.momentum_encoder = MomentumEncoder(self._online, settings.momentum, settings.final_momentum)
        self.queue = Queue(settings.queue_size, width)
        self.neighbours = settings.neighbours
        self.transformer_learning_rate = settings.transformer_learning_rate
        code = sinusoidal_code(settings.neighbours, width)
        if settings.positional_axis == "feature":
            code = sinusoidal_code(width, settings.neighbours).T
        self.register_buffer("code", code.contiguous(), persistent=False)
        temperature = settings.attention_temperature
        self.centroid_loss = NNCLRLoss(
            self.own_loss.temperature if temperature is None else temperature, gather_distributed=True
        )
        self.feature_loss = FeatureContrastLoss(gather_distributed=True)

    @property
    def _online(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.projector)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns projections, predictions, centroid predictions and momentum projections, each of both views."""
        views = two_views(views)
        z = [self.projector(self.backbone(view)) for view in views]
        m = [F.normalize(self.momentum_encoder(view), dim=1) for view in views]
        return (*z, *(self.predictor(each) for each in z), *(self.centroid_predictor(each) for each in z), *m)

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`. The transformer runs here: its input depends on the queue."""
        z1, z2, p1, p2, front1, front2, m1, m2 = embeddings
        (nearest1, found), (nearest2, _) = (self.queue.neighbours(m, self.neighbours) for m in (m1, m2))
        neighbour, statistics = self.neighbour_loss(nearest1[:, 0], nearest2[:, 0], p1, p2, batch)
        sequences = (nearest1, nearest2, self._shifted(nearest1, front1), self._shifted(nearest2, front2))
        centroid1, centroid2, shifted1, shifted2 = self._centroids(torch.cat(sequences)).chunk(4)
        centroid: Tensor = (self.centroid_loss(centroid1, shifted2) + self.centroid_loss(centroid2, shifted1)) / 2
        feature: Tensor = self.feature_loss(z1, z2, m1, m2)
        self.figures = {
            "projection_std": projection_std(z1, z2),
            "neighbour_loss": neighbour.detach(),
            "centroid_loss": centroid.detach(),
            "feature_loss": feature.detach(),
            "neighbour_purity": neighbour_purity(found[:, 0], batch.labels),
            "queue_fill": self.queue.fill,
            "momentum": z1.new_full((), self.momentum_encoder.momentum, dtype=torch.float64),
            **statistics,
        }
        return (neighbour + centroid + feature) / 2

    def after_loss(self, embeddings: Embeddings, batch: Batch) -> None:
        """Puts the first views' momentum projections into the queue."""
        self.queue.enqueue(embeddings[6], batch.labels)

    def after_optimizer_step(self, step: int) -> None:
        """Updates the momentum encoder."""
        self.momentum_encoder.update(self._online, step, self._total_steps)

    def own_groups(self) -> list[dict[str, Any]]:
        """The transformer, if it has a learning rate of its own."""
        if self.transformer_learning_rate is None:
            return []
        return [{"params": list(self.transformer.parameters()), "learning_rate": self.transformer_learning_rate}]

    def _centroids(self, nearest: Tensor) -> Tensor:
        return self.transformer(nearest + self.code)[:, 0]

    def _shifted(self, nearest: Tensor, front: Tensor) -> Tensor:
        return torch.cat([front.to(nearest.dtype).unsqueeze(1), nearest[:, :-1]], dim=1)
