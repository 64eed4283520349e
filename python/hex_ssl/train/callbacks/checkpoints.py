"""Checkpoints: the last one, from which a run resumes, and checkpoints that are kept."""

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
"""Number of steps between time checks if several processes have to agree on the time."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint plugin with atomic writes: a checkpoint is always complete, even if the process dies.

    Lightning writes into the system's temporary folder. If that is on another file system, it then copies the file, and
    a process that dies meanwhile leaves a partial checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a temporary file in the same folder, flushes it to disk and renames it."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads only tensors and plain values, see `hex_ssl.train.reading.read_checkpoint`."""
        return read_checkpoint(path)


class Checkpoints(L.Callback):
    """Saves `last.ckpt` at the end of epochs and every few minutes, and keeps weights every few epochs.

    Put this callback after those whose state it saves. Weights and running statistics that are not finite are never
    saved: the run ends with a FloatingPointError, and the last good checkpoint stays. On SIGTERM, a run with one
    process saves after the current batch.

    Args:
        folder: Folder of the checkpoints.
        minutes: Maximum number of minutes between checkpoints. 0 saves after each optimizer step.
        keep_every: Number of epochs between checkpoints that are kept (`epoch-0000.ckpt`, `epoch-0010.ckpt`, ...),
            starting with the untrained network. They hold the weights and the queue of the method, not the optimizer.
            0 keeps none.
        epochs: Number of epochs between checkpoints at the end of an epoch. The last epoch always ends with one.
    """

    def __init__(self, folder: Path, minutes: float = 10.0, keep_every: int = 0, epochs: int = 1) -> None:
        self.folder = folder
        self.seconds = 60.0 * minutes
        self.keep_every = keep_every
        self.epochs = epochs
        self._saved_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        if self.keep_every and trainer.global_step == 0:
            self._keep(trainer, epoch=0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not between optimizer steps, because a checkpoint does not hold accumulated gradients. The epoch's metrics
        # come before a checkpoint at its end.
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch and self._is_due(trainer, batch_idx):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if self.keep_every and done % self.keep_every == 0:
            self._keep(trainer, done)
        if done % self.epochs == 0 or done == trainer.max_epochs or self._is_due(trainer):
            self._save(trainer)

    def _is_due(self, trainer: L.Trainer, batch_idx: int = 0) -> bool:
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
    """Checks that the losses since the last check, the parameters and the saved buffers are finite.

    Buffers are, for example, the running statistics of batch norms.

    Raises:
        FloatingPointError: Some are not finite. The message has the step and the name of the first such tensor.
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
            f"are not, such as those of {first}; the last checkpoint is from before this step"
        )
