"""What the methods share: a backbone, the logging, the optimizer with its schedule."""

from abc import abstractmethod
from typing import Any, cast

import lightning as L
from torch import Tensor, nn

from hex_ssl.config import OptimizerConfig
from hex_ssl.optim import build_optimizer, build_schedule

Batch = tuple[tuple[Tensor, ...], Tensor]
"""The views, each [N, C, H, W], and the labels [N]."""


class Method(L.LightningModule):
    """A method: a loss on views of a batch, around a backbone.

    A subclass makes its projector, loss and the like, and says in `compute_loss` what it minimises.

    Args:
        backbone: Images [N, C, H, W] to representations h [N, F].
        optimizer: The optimizer and its schedule.
    """

    def __init__(self, backbone: nn.Module, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.optimizer_config = optimizer

    def forward(self, images: Tensor) -> Tensor:
        """The backbone's representations h [N, F]."""
        return cast(Tensor, self.backbone(images))

    @abstractmethod
    def compute_loss(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """The loss of a batch, 0-d.

        Args:
            views: Each [N, C, H, W].
            labels: int64 [N]; for losses that are told them.
        """

    def statistics(self) -> dict[str, Tensor]:
        """What else to log about the batch just seen, by name; each 0-d."""
        return {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; the means of its figures over the epoch are logged at the epoch's end."""
        views, labels = batch
        loss = self.compute_loss(views, labels)
        figures: dict[str, Any] = {
            **self.statistics(),
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        over_epoch: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": len(labels)}
        self.log("loss", loss.detach(), prog_bar=True, **over_epoch)
        self.log_dict(figures, **over_epoch)
        return loss

    def on_train_epoch_end(self) -> None:
        """Says where the run stands: epochs and optimizer steps done, which Lightning counts from 0."""
        self.log_dict({"epoch": float(self.current_epoch + 1), "step": float(self.global_step)})

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule stepped once per optimizer step."""
        optimizer = build_optimizer(self, self.optimizer_config)
        total_steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        warmup_steps = round(total_steps * self.optimizer_config.warmup_epochs / epochs)
        schedule = build_schedule(optimizer, warmup_steps, total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
