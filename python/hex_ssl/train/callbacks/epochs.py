"""One line of metrics per epoch."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from hex_ssl.distributed import is_distributed
from hex_ssl.train.data.batch import Batch
from hex_ssl.train.methods import Method
from hex_ssl.train.progress import Report, reporting

Evaluation = Callable[[L.Trainer, Method], dict[str, float]]


class EpochMetrics(L.Callback):
    """Logs metrics at the end of each epoch: mean loss, means of the method's statistics, speed and evaluation.

    `seconds` is the training time of the epoch without the evaluation. `images_per_second` counts each image once,
    not each view, over all processes. If an epoch is resumed, both cover the part after resuming.

    The values stay on the device until the end of the epoch, so that no step waits for them.

    The checkpoint contains the sums, so the means of a resumed epoch cover the whole epoch. Metrics are logged before
    the epoch's checkpoint is written.

    Args:
        evaluation: Returns metrics of the backbone by name. None disables the evaluation.
        every: Number of epochs between evaluations. There is also one before the first step, logged as epoch 0, and one
            after the last epoch.

    Attributes:
        figures: The metrics that were logged last, by name.
        accuracy: The last k-NN accuracy, in [0, 1]. None before the first evaluation.
        report: Called with the progress of an evaluation, see `hex_ssl.train.progress`. None shows nothing.
    """

    def __init__(self, evaluation: Evaluation | None = None, every: int = 1) -> None:
        self.evaluation = evaluation
        self.every = every
        self.figures: dict[str, float] = {}
        self.accuracy: float | None = None
        self.report: Report | None = None
        self._sums: dict[tuple[str, ...], Tensor] = {}  # by the names of their elements
        self._batches = 0
        self._started = time.monotonic()
        self._images = 0
        self._learning_rate = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _as_method(pl_module).logs_figures = False
        if trainer.global_step == 0 and self.evaluation is not None:
            self._log(trainer, 0, self._evaluate(self.evaluation, trainer, _as_method(pl_module)))
        self._started, self._images = time.monotonic(), 0  # a resumed epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._images = time.monotonic(), 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._learning_rate = float(
            trainer.optimizers[0].param_groups[0]["lr"]
        )  # afterwards, the schedule has moved on

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        loss: Tensor = outputs["loss"].detach() * trainer.accumulate_grad_batches  # which Lightning divided it by
        figures = {
            "loss": loss,
            **_as_method(pl_module).statistics(),
            "learning_rate": loss.new_full((), self._learning_rate, dtype=torch.float64),
        }
        values = torch.stack([each.detach().to(loss.device, torch.float64) for each in figures.values()])
        names = tuple(figures)
        # Restored sums are on the CPU.
        self._sums[names] = self._sums[names].to(loss.device) + values if names in self._sums else values
        self._batches += 1
        self._images += len(batch.indices)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done, method = trainer.current_epoch + 1, _as_method(pl_module)
        method.look_at_losses()
        figures = {name: total / self._batches for name, total in self._totals().items()}
        figures |= self._speed(trainer)
        self._sums, self._batches = {}, 0
        if self.evaluation is not None and (done % self.every == 0 or done == trainer.max_epochs):
            figures |= self._evaluate(self.evaluation, trainer, method)
        self._log(trainer, done, figures)

    def _evaluate(self, evaluation: Evaluation, trainer: L.Trainer, method: Method) -> dict[str, float]:
        with reporting(self.report):
            figures = evaluation(trainer, method)
        self.accuracy = figures.get("knn_accuracy", self.accuracy)
        return figures

    def mean_loss(self) -> float | None:
        """The mean loss of the epoch so far in this process, or None before the first batch. Waits for the device."""
        sums = [values[names.index("loss")] for names, values in self._sums.items()]
        return float(torch.stack(sums).sum()) / self._batches if sums else None

    def state_dict(self) -> dict[str, Any]:
        """The sums over the epoch so far, averaged over the processes, all of which have to call this."""
        totals = {name: torch.tensor(total, dtype=torch.float64) for name, total in self._totals().items()}
        return {"sums": totals, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores saved sums."""
        sums = state_dict["sums"]
        self._sums = {tuple(sums): torch.stack(list(sums.values()))} if sums else {}
        self._batches = int(state_dict["batches"])

    def _totals(self) -> dict[str, float]:
        """The sums by name, averaged over the processes."""
        found: dict[str, float] = {}
        for names, values in self._sums.items():
            if is_distributed():
                dist.all_reduce(values := values.clone())
                values = values / dist.get_world_size()
            for name, total in zip(names, values.tolist(), strict=True):
                found[name] = found.get(name, 0.0) + total
        return found

    def _speed(self, trainer: L.Trainer) -> dict[str, float]:
        """Training time of the epoch in seconds, and images per second over all processes."""
        seconds = time.monotonic() - self._started
        return {"seconds": seconds, "images_per_second": self._images * trainer.world_size / seconds}

    def _log(self, trainer: L.Trainer, epoch: int, figures: dict[str, float]) -> None:
        self.figures = figures
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": float(epoch), **figures}, step=trainer.global_step)


def _as_method(pl_module: L.LightningModule) -> Method:
    assert isinstance(pl_module, Method)
    return pl_module
