"""A time limit that also ends a run in its middle, from where a later process goes on."""

import math
from pathlib import Path
from time import monotonic
from typing import Any

import lightning as L

from hex_ssl.train.callbacks.checkpoints import LAST, check_weights


class OutOfTimeError(Exception):
    """The time was over before the run was done."""


class Deadline:
    """When the time is over; the same in all processes of the machine.

    Args:
        minutes: From now; None: never.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.at = math.inf if minutes is None else monotonic() + 60 * minutes

    def passed(self) -> bool:
        """Whether the time is over."""
        return monotonic() >= self.at

    def check(self) -> None:
        """Does nothing before it.

        Raises:
            OutOfTimeError: The time is over.
        """
        if self.passed():
            raise OutOfTimeError


class StopAtDeadline(L.Callback):
    """Ends a training at the deadline, after a checkpoint. To stand behind all other callbacks.

    Args:
        deadline: When. The step that is under way then is finished, so that each start makes one step at least.
        folder: Where the run's checkpoints are.

    Raises:
        OutOfTimeError: The time was over before the last step.
    """

    def __init__(self, deadline: Deadline, folder: Path) -> None:
        self.deadline, self.folder = deadline, folder

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch and self.deadline.passed():
            check_weights(trainer)
            trainer.save_checkpoint(self.folder / LAST)
            raise OutOfTimeError

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Each epoch ends with a checkpoint already.
        if trainer.current_epoch + 1 != trainer.max_epochs:
            self.deadline.check()
