"""One line of metrics per epoch."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from hex_ssl.distributed import is_distributed
from hex_ssl.train.methods import Method

Evaluation = Callable[[L.Trainer, Method], dict[str, float]]


class EpochMetrics(L.Callback):
    """Logs, at each epoch's end, the epoch's means of the loss and of what the method tells, and the evaluation.

    The sums are in the checkpoint: an epoch that was interrupted and resumed has the same line as any other. The line
    stands in the files before the epoch's checkpoint is written.

    Args:
        evaluation: Figures of the backbone, by name; None: no evaluation.
        every: Epochs between two evaluations. The first is before the first step, as epoch 0; one more follows the last
            epoch.

    Attributes:
        figures: What was last logged, by name.
    """

    def __init__(self, evaluation: Evaluation | None = None, every: int = 1) -> None:
        self.evaluation = evaluation
        self.every = every
        self.figures: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._learning_rate = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _as_method(pl_module).logs_figures = False
        if trainer.global_step == 0 and self.evaluation is not None:
            self._log(trainer, 0, self.evaluation(trainer, _as_method(pl_module)))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._learning_rate = float(
            trainer.optimizers[0].param_groups[0]["lr"]
        )  # afterwards, the schedule has moved on

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss: Tensor = outputs["loss"].detach() * trainer.accumulate_grad_batches  # which Lightning divided it by
        figures = {
            "loss": loss,
            **_as_method(pl_module).statistics(),
            "learning_rate": loss.new_tensor(self._learning_rate, dtype=torch.float64),
        }
        for name, value in figures.items():
            value = value.detach().to(loss.device, torch.float64)
            # Restored sums come on the CPU.
            self._sums[name] = self._sums[name].to(loss.device) + value if name in self._sums else value
        self._batches += 1
        pl_module.log("loss", loss, prog_bar=True, logger=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        figures = {name: float(total) / self._batches for name, total in self._joined_sums().items()}
        self._sums, self._batches = {}, 0
        if self.evaluation is not None and (done % self.every == 0 or done == trainer.max_epochs):
            figures |= self.evaluation(trainer, _as_method(pl_module))
        self._log(trainer, done, figures)

    def state_dict(self) -> dict[str, Any]:
        """The sums over the epoch so far; over several processes their mean, so all have to call this."""
        return {"sums": {name: total.cpu() for name, total in self._joined_sums().items()}, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from saved sums."""
        self._sums, self._batches = dict(state_dict["sums"]), int(state_dict["batches"])

    def _joined_sums(self) -> dict[str, Tensor]:
        """The sums; over several processes their mean."""
        if not (self._sums and is_distributed()):
            return self._sums
        sums = torch.stack(list(self._sums.values()))
        dist.all_reduce(sums)
        return dict(zip(self._sums, (sums / dist.get_world_size()).unbind(), strict=True))

    def _log(self, trainer: L.Trainer, epoch: int, figures: dict[str, float]) -> None:
        self.figures = figures
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": float(epoch), **figures}, step=trainer.global_step)


def _as_method(pl_module: L.LightningModule) -> Method:
    assert isinstance(pl_module, Method)
    return pl_module
