"""SimCLR (Chen et al. 2020), with NT-Xent or with a loss in its place, such as HEX."""

import torch
from torch import Tensor, nn

from hex_ssl.config import OptimizerConfig
from hex_ssl.losses import HexLoss
from hex_ssl.methods.base import Method
from hex_ssl.statistics import Statistics


class SimCLR(Method):
    """Two views of an image attract each other; the other images of the batch repel.

    The backbone's representations h go through the projector, Linear, ReLU, Linear without batch norm
    (Chen et al. 2020, section 4.2); the loss sees the projections.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        loss: Called as `loss(z1, z2)` with projections [N, D]: any of `hex_ssl.losses`, or one like them. HexLoss is
            also told the labels, which its supervised threshold alone reads, and the epoch.
        feature_dim: F.
        hidden_dim: Width of the projector's hidden layer.
        output_dim: D.
        optimizer: The optimizer and its schedule.

    Example:
        >>> from hex_ssl.backbones import SmallResNet
        >>> method = SimCLR(SmallResNet(in_channels=1, width=8), HexLoss(temperature=0.1), feature_dim=32)
        >>> method(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        backbone: nn.Module,
        loss: nn.Module,
        feature_dim: int,
        hidden_dim: int = 2048,
        output_dim: int = 256,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        super().__init__(backbone, optimizer or OptimizerConfig())
        self.projector = nn.Sequential(nn.Linear(feature_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))
        self.loss = loss

    def compute_loss(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """See :meth:`Method.compute_loss`. All views go through the backbone as one batch."""
        z = self.projector(self.backbone(torch.cat(views))).chunk(len(views))
        loss: Tensor = self.loss(*z, labels=labels) if isinstance(self.loss, HexLoss) else self.loss(*z)
        return loss

    def statistics(self) -> dict[str, Tensor]:
        """Threshold, mean number of hierarchical negatives and the like, where the loss keeps them."""
        statistics: Statistics | None = getattr(self.loss, "statistics", None)
        return {} if statistics is None else statistics._asdict()

    def on_train_epoch_start(self) -> None:
        """Tells HEX the epoch, for its warm-up and its schedules."""
        if isinstance(self.loss, HexLoss):
            self.loss.set_epoch(self.current_epoch)
