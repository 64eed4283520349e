"""MoCo v2, with HEX in place of its loss."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from hex_ssl.losses import MoCoLoss
from hex_ssl.momentum import MomentumEncoder
from hex_ssl.queue import Queue
from hex_ssl.statistics import Statistics
from hex_ssl.train.config import LossConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, Method, Shared, mean_statistics, projection_std, two_views
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.settings import MoCoV2Settings


class MoCoV2(Method):
    """Matches each query with the momentum encoder's key of the other view, against a queue of earlier keys.

    The projector is Linear, ReLU, Linear without batch norm. HEX replaces the loss: queries are the anchors, the
    momentum keys their positives, and the queue's rows the negatives. The adaptive threshold is computed over each
    query's positive and the queue. The HEX paper does not cover MoCo: this is ours. Batch norm's statistics are
    computed per process or, with SyncBN, over all processes. The paper's shuffling of images between processes is not
    supported.

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.MoCoV2Settings`.
        temperature: Temperature of the method's own loss, above 0.
        **shared: `hex_loss`, `optimizer` and `superclasses`, see :class:`Method`.

    Source:
        "Improved Baselines with Momentum Contrastive Learning" (Chen et al. 2020, arXiv 2003.04297); MoCo (He et al.
        2020, arXiv 1911.05722).

    Example:
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> settings = MoCoV2Settings(queue_size=256)
        >>> method = MoCoV2(SmallResNet(in_channels=1, width=8), feature_dim=32, settings=settings)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = MoCoV2Settings

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: MoCoV2Settings | None = None,
        *,
        temperature: float = 0.2,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or MoCoV2Settings()
        self.projector = mlp(feature_dim, settings.hidden_dim, settings.output_dim, batch_norm=False)
        self.momentum_encoder = MomentumEncoder(self._online, settings.momentum, settings.final_momentum)
        directions = 2 if settings.symmetric else 1
        self.queues = nn.ModuleList(Queue(settings.queue_size, settings.output_dim) for _ in range(directions))
        self.loss = MoCoLoss(temperature, gather_distributed=True)
        self.symmetric = settings.symmetric

    @classmethod
    def loss_arguments(cls, config: LossConfig, epochs: int | None = None) -> dict[str, Any]:
        """`hex_loss` and `temperature`: see :meth:`Method.loss_arguments`."""
        return {**super().loss_arguments(config, epochs), "temperature": config.temperature}

    @property
    def _online(self) -> nn.Module:
        return nn.Sequential(self.backbone, self.projector)

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns queries of the first view, then keys of the second. If symmetric, each is of both views."""
        first, second = two_views(views)
        asking, answering = ((first, second), (second, first)) if self.symmetric else ((first,), (second,))
        queries = (self.projector(self.backbone(view)) for view in asking)
        return (*queries, *(self.momentum_encoder(view) for view in answering))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        queries, keys = self._split(embeddings)
        losses, statistics = [], []
        for query, key, queue in zip(queries, keys, self._queues(), strict=True):
            losses.append(self._direction(query, key, queue, batch))
            statistics.append(self._statistics_of_hex())
        self.figures = {
            "projection_std": projection_std(*queries),
            "queue_fill": self._queues()[0].fill,
            "momentum": losses[0].new_full((), self.momentum_encoder.momentum, dtype=torch.float64),
            **mean_statistics(statistics),
        }
        return torch.stack(losses).mean()

    def after_loss(self, embeddings: Embeddings, batch: Batch) -> None:
        """Puts the keys into their queues."""
        for key, queue in zip(self._split(embeddings)[1], self._queues(), strict=True):
            queue.enqueue(key, batch.labels)

    def after_optimizer_step(self, step: int) -> None:
        """Updates the momentum encoder."""
        self.momentum_encoder.update(self._online, step, self._total_steps)

    def _queues(self) -> list[Queue]:
        return [queue for queue in self.queues if isinstance(queue, Queue)]

    def _split(self, embeddings: Embeddings) -> tuple[Embeddings, Embeddings]:
        return embeddings[: len(self.queues)], embeddings[len(self.queues) :]

    def _direction(self, queries: Tensor, keys: Tensor, queue: Queue, batch: Batch) -> Tensor:
        negatives = queue.rows.to(queries.dtype)
        if self.hex_loss is None:
            return self.loss(queries, keys, negatives)
        labels = self.labels_for(batch)
        return self.hex_loss.against_keys(
            queries,
            negatives,
            positives=keys.to(queries.dtype),
            anchor_labels=labels,
            key_labels=None if labels is None else self.superclass_of(queue.labels),
        )

    def _statistics_of_hex(self) -> Statistics | None:
        return None if self.hex_loss is None else self.hex_loss.statistics
