"""A time limit that also stops a run during training, so that a later process can continue it."""

import math
from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L

from hex_ssl.train.callbacks.checkpoints import LAST, check_weights


class OutOfTimeError(Exception):
    """The deadline passed before the run was finished."""


class Deadline:
    """A point in time, the same in all processes of the machine.

    Args:
        minutes: Minutes from now. None is never.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.at = math.inf if minutes is None else monotonic() + 60 * minutes

    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return monotonic() >= self.at

    def check(self) -> None:
        """Raises an error if the deadline has passed.

        Raises:
            OutOfTimeError: The deadline has passed.
        """
        if self.passed():
            raise OutOfTimeError


class StopAtDeadline(L.Callback):
    """Stops training at the deadline, after saving a checkpoint. Put this after all other callbacks.

    Args:
        deadline: The deadline. The current step is finished first, so each start makes at least one step.
        folder: Folder of the checkpoints.

    Raises:
        OutOfTimeError: The deadline passed before the last step.
    """

    def __init__(self, deadline: Deadline, folder: Path) -> None:
        self.deadline, self.folder = deadline, folder

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch:
            self._stop_if_late(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 != trainer.max_epochs:
            self._stop_if_late(trainer)

    def _stop_if_late(self, trainer: L.Trainer) -> None:
        if self.deadline.passed():
            check_weights(trainer)
            trainer.save_checkpoint(self.folder / LAST)
            raise OutOfTimeError
