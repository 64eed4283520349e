"""SimCLR, with NT-Xent, HEX, HCL or DCL."""

from itertools import groupby
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from hex_ssl.losses import HexLoss, NTXentLoss
from hex_ssl.train.config import LossConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, Method, Shared, mean_statistics, projection_std
from hex_ssl.train.methods.heads import mlp
from hex_ssl.train.methods.losses import build_loss
from hex_ssl.train.methods.settings import SimCLRSettings


class SimCLR(Method):
    """Pulls two views of an image together, and pushes the other images of the batch away.

    The projector is Linear, ReLU, Linear without batch norm. HEX replaces NT-Xent (HEX supplement, S7.3.2).

    Args:
        backbone: Network from images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        settings: See :class:`hex_ssl.train.methods.settings.SimCLRSettings`.
        loss: Loss that replaces NT-Xent, called as `loss(z1, z2)` with projections [N, D], such as HCL or DCL. HEX is
            given as `hex_loss` instead. None uses NT-Xent with a temperature of 0.1.
        **shared: `hex_loss`, `optimizer` and `superclasses`, see :class:`Method`.

    Raises:
        ValueError: `loss` is HEX, or both `loss` and `hex_loss` are given.

    Source:
        "A Simple Framework for Contrastive Learning of Visual Representations" (Chen et al. 2020, arXiv 2002.05709).

    Example:
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = SimCLR(SmallResNet(in_channels=1, width=8), feature_dim=32, hex_loss=HexLoss(temperature=0.1))
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    settings_class = SimCLRSettings
    view_count = None

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        settings: SimCLRSettings | None = None,
        *,
        loss: nn.Module | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(backbone, **shared)
        settings = settings or SimCLRSettings()
        if isinstance(loss, HexLoss) or (loss is not None and self.hex_loss is not None):
            raise ValueError(
                f"expected HEX to be given as `hex_loss`, and no other `loss` with it, but got {loss} as `loss`"
            )
        self.projector = mlp(feature_dim, settings.hidden_dim, settings.output_dim, batch_norm=False)
        self.loss = NTXentLoss(temperature=0.1, gather_distributed=True) if loss is None else loss

    @classmethod
    def loss_arguments(cls, config: LossConfig, epochs: int | None = None) -> dict[str, Any]:
        """`hex_loss`, or `loss` without HEX: see :meth:`Method.loss_arguments`."""
        loss = build_loss(config, epochs)
        return {"hex_loss" if isinstance(loss, HexLoss) else "loss": loss}

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Returns the projections of each view. Views of one size form one batch, as in the authors' code."""
        alike = [list(group) for _, group in groupby(views, key=lambda view: view.shape[2:])]
        z: Tensor = self.projector(torch.cat([self.backbone(torch.cat(group)) for group in alike]))
        return tuple(z.chunk(len(views)))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        loss: Tensor
        if self.hex_loss is None:
            loss, statistics = self.loss(*embeddings), getattr(self.loss, "statistics", None)
        else:
            loss = self.hex_loss(*embeddings, labels=self.labels_for(batch))
            statistics = self.hex_loss.statistics
        self.figures = {"projection_std": projection_std(*embeddings), **mean_statistics([statistics])}
        return loss
