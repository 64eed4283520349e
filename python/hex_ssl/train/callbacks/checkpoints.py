"""Checkpoints: one to resume from, and some to keep."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from hex_ssl.train.methods import Method
from hex_ssl.train.reading import read_checkpoint
from hex_ssl.train.whole_file import whole_file

LAST = "last.ckpt"
CHECK_EVERY = 50
"""Steps between two looks at the clock where several processes have to agree on the time."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside and renamed: a file of that name is whole, whenever the process dies.

    Lightning's own way has the file made in the system's temporary folder; from another file system it is then copied
    into place, and a process that dies meanwhile leaves half of it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes, waits for the disk, renames."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Tensors and plain values alone: see `hex_ssl.train.reading.read_checkpoint`."""
        return read_checkpoint(path)


class Checkpoints(L.Callback):
    """Saves `last.ckpt` at the end of each epoch and every few minutes, and keeps weights every few epochs.

    To stand behind the callbacks whose state it is to save. Weights and running statistics that are not finite are
    not saved: the run ends with a FloatingPointError, and the last good checkpoint stays. On SIGTERM, a run of one
    process saves after the batch.

    Args:
        folder: Where they go.
        minutes: Minutes between two within an epoch; 0: after each optimizer step.
        keep_every: Epochs between two that are kept, as `epoch-0010.ckpt` and the like, the untrained network's among
            them: weights and queue of the method, without the optimizer. 0: none.
    """

    def __init__(self, folder: Path, minutes: float = 10.0, keep_every: int = 0) -> None:
        self.folder = folder
        self.seconds = 60.0 * minutes
        self.keep_every = keep_every
        self._saved_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self.keep_every and trainer.global_step == 0:
            self._keep(trainer, epoch=0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between optimizer steps there are gradients, which no checkpoint holds; the epoch's end has one of its own.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch and self._is_due(trainer, batch_idx):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if self.keep_every and done % self.keep_every == 0:
            self._keep(trainer, done)
        self._save(trainer)

    def _is_due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        if self.seconds == 0:
            return True
        if trainer.world_size == 1 and trainer.received_sigterm:  # Lightning ends the run after this batch
            return True
        due = time.monotonic() - self._saved_at >= self.seconds
        if trainer.world_size == 1:
            return due
        return batch_idx % CHECK_EVERY == 0 and bool(trainer.strategy.broadcast(due))

    def _save(self, trainer: L.Trainer) -> None:
        check_weights(trainer)
        trainer.save_checkpoint(self.folder / LAST)
        self._saved_at = time.monotonic()

    def _keep(self, trainer: L.Trainer, epoch: int) -> None:
        check_weights(trainer)
        trainer.save_checkpoint(self.folder / f"epoch-{epoch:04}.ckpt", weights_only=True)


def check_weights(trainer: L.Trainer) -> None:
    """Looks at the losses since the last look, then at the parameters and at what else is saved with them, such as the
    running statistics of a batch norm.

    Raises:
        FloatingPointError: Some are not finite; the message has the step and, of the latter, the first such tensor.
    """
    module = trainer.lightning_module
    if isinstance(module, Method):
        module.look_at_losses()
    saved = {name: each for name, each in module.state_dict().items() if isinstance(each, Tensor)}
    finite = torch.stack([each.isfinite().all().to(module.device) for each in saved.values()])
    if not bool(finite.all()):
        first = next(name for name, is_finite in zip(saved, finite.tolist(), strict=True) if not is_finite)
        raise FloatingPointError(
            f"expected finite weights after step {trainer.global_step} (epoch {trainer.current_epoch + 1}), but some "
            f"are not, such as those of {first}; the last checkpoint is of before"
        )
