"""Shows the progress of a run: a bar in a terminal, otherwise one line of text per epoch."""

import sys
import time

import lightning as L
import rich
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from hex_ssl.train.callbacks.epochs import EpochMetrics

SECONDS = 2.0
"""Seconds between updates of the loss beside the bar."""


def shows_progress_bar() -> bool:
    """Whether standard output can show a progress bar: a terminal or a notebook, not a file or a pipe."""
    console = rich.get_console()
    return console.is_jupyter or (sys.stdout.isatty() and not console.is_dumb_terminal)


class EpochBar(RichProgressBar):
    """Lightning's progress bar with the mean loss of the epoch so far.

    The loss is updated every two seconds, because reading it waits for the device.

    Args:
        metrics: The callback that has the loss.
    """

    def __init__(self, metrics: EpochMetrics) -> None:
        super().__init__()
        self.metrics = metrics
        self._shown: dict[str, float] = {}
        self._read_at = -SECONDS

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:  # type: ignore[override]
        """The metrics shown beside the bar."""
        if time.monotonic() - self._read_at >= SECONDS:
            loss = self.metrics.mean_loss()
            self._shown = {} if loss is None else {"loss": loss}
            self._read_at = time.monotonic()
        return self._shown


class EpochLines(ProgressBar):
    """Prints one line at the end of each epoch, flushed immediately.

    The line has the number of epochs done, the epoch's mean loss and learning rate, the k-NN accuracy if it was
    measured, and the duration of the epoch with its evaluation in seconds. This is a ProgressBar, so that Lightning
    does not add its own.

    Args:
        metrics: The callback that has the metrics. It must come before this one among the callbacks.
    """

    def __init__(self, metrics: EpochMetrics) -> None:
        super().__init__()
        self.metrics = metrics
        self._enabled = True
        self._start = 0.0

    def disable(self) -> None:
        """Stops printing. Lightning calls this in all processes but one."""
        self._enabled = False

    def enable(self) -> None:
        """Starts printing again."""
        self._enabled = True

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.metrics.figures:  # of the untrained backbone
            self._print(0, trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print(trainer.current_epoch + 1, trainer)

    def _print(self, epoch: int, trainer: L.Trainer) -> None:
        figures, words = self.metrics.figures, [f"epoch {epoch}/{trainer.max_epochs}"]
        for name, told in {"loss": "loss", "learning_rate": "learning rate"}.items():
            if name in figures:
                words.append(f"{told} {figures[name]:.4g}")
        if "knn_accuracy" in figures:
            words.append(f"k-NN accuracy {100 * figures['knn_accuracy']:.1f} %")
        if self._enabled:
            print(*words, f"{time.monotonic() - self._start:.1f} s", sep="  ", flush=True)
