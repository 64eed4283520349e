"""SimCLR, with NT-Xent or with a loss in its place: HEX, HCL, DCL."""

from itertools import groupby

import torch
from torch import Tensor, nn

from hex_ssl.losses import HexLoss, NTXentLoss
from hex_ssl.train.config import OptimizerConfig
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods.base import Embeddings, Method, mean_statistics, projection_std
from hex_ssl.train.methods.heads import mlp


class SimCLR(Method):
    """Two views of an image attract each other; the other images of the batch repel.

    The projector is Linear, ReLU, Linear without batch norm. HEX replaces NT-Xent (HEX supplement, S7.3.2).

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        feature_dim: F.
        loss: Called as `loss(z1, z2)` with projections [N, D]: any of `hex_ssl.losses`, or one like them. HexLoss is
            also told the labels, which its supervised threshold alone reads, and the epoch. None: NT-Xent.
        hidden_dim: Width of the projector's hidden layer.
        output_dim: D.
        optimizer: The optimizer and its schedule.
        superclasses: See :class:`Method`.

    Source:
        "A Simple Framework for Contrastive Learning of Visual Representations" (Chen et al. 2020, arXiv 2002.05709).

    Example:
        >>> from hex_ssl.train.backbones import SmallResNet
        >>> method = SimCLR(SmallResNet(in_channels=1, width=8), feature_dim=32, loss=HexLoss(temperature=0.1))
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        loss: nn.Module | None = None,
        *,
        hidden_dim: int = 2048,
        output_dim: int = 128,
        optimizer: OptimizerConfig | None = None,
        superclasses: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, superclasses)
        self.projector = mlp(feature_dim, hidden_dim, output_dim, batch_norm=False)
        self.loss = NTXentLoss(temperature=0.1, gather_distributed=True) if loss is None else loss

    def embed(self, views: tuple[Tensor, ...]) -> Embeddings:
        """Projections of each view; all views go through the backbone as one batch, as in the authors' code.

        Views of another size (multi-crop) are a batch of their own.
        """
        alike = [list(group) for _, group in groupby(views, key=lambda view: view.shape[2:])]
        z: Tensor = self.projector(torch.cat([self.backbone(torch.cat(group)) for group in alike]))
        return tuple(z.chunk(len(views)))

    def compute_loss(self, embeddings: Embeddings, batch: Batch) -> Tensor:
        """See :meth:`Method.compute_loss`."""
        loss: Tensor
        if isinstance(self.loss, HexLoss):
            loss = self.loss(*embeddings, labels=self.labels_for(self.loss, batch))
        else:
            loss = self.loss(*embeddings)
        seen = mean_statistics([getattr(self.loss, "statistics", None)])
        self._figures = {"projection_std": projection_std(*embeddings), **seen}
        return loss
