"""Shows the progress of a run: a bar in a terminal, otherwise one line of text per epoch."""

import time

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from hex_ssl.train.callbacks.epochs import EpochMetrics
from hex_ssl.train.progress import ProgressLines, ProgressTasks

SECONDS = 2.0
"""Seconds between updates of the loss beside the bar."""


class EpochBar(RichProgressBar):
    """Lightning's progress bar with the mean loss of the epoch so far.

    The loss is updated every two seconds, because reading it waits for the device. Epochs are counted from 1, as in the
    metrics files. At the end of an epoch, the loss and the k-NN accuracy are those of the files. A second bar shows the
    progress of an evaluation.

    Args:
        metrics: The callback that has the metrics. It must come before this one among the callbacks.
    """

    def __init__(self, metrics: EpochMetrics) -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_format=".4g"))
        self.metrics = metrics
        self._loss: dict[str, float | str] = {}
        self._read_at = -SECONDS
        self._evaluated: ProgressTasks | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._init_progress(trainer)  # before the untrained backbone is evaluated
        if self.progress is not None:
            self.metrics.report = self._report

    def _report(self, work: str, done: int, steps: int) -> None:
        # Lightning makes a new bar for each epoch.
        if self.progress is not None and (self._evaluated is None or self._evaluated.progress is not self.progress):
            self._evaluated = ProgressTasks(self.progress)
        if self._evaluated is not None:
            self._evaluated(work, done, steps)
            self.refresh()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._loss, self._read_at = {"loss": self.metrics.figures["loss"]}, time.monotonic()
        super().on_train_epoch_end(trainer, pl_module)
        self.refresh(hard=True)  # otherwise the next epoch may begin before these are shown

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float | str]:  # type: ignore[override]
        """The values shown beside the bar."""
        if time.monotonic() - self._read_at >= SECONDS:
            loss = self.metrics.mean_loss()
            self._loss = {} if loss is None else {"loss": loss}
            self._read_at = time.monotonic()
        return {**self._loss, **_accuracy(self.metrics)}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


def _accuracy(metrics: EpochMetrics) -> dict[str, str]:
    """The last k-NN accuracy, if there is one."""
    return {} if metrics.accuracy is None else {"k-NN accuracy": f"{100 * metrics.accuracy:.1f} %"}


class EpochLines(ProgressBar):
    """Prints one line at the end of each epoch, flushed immediately.

    The line has the number of epochs done, the epoch's mean loss and learning rate, the k-NN accuracy if it was
    measured, and the duration of the epoch with its evaluation in seconds. A long evaluation prints its progress in
    lines of its own. This is a ProgressBar, so that Lightning does not add its own.

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
        if self._enabled:
            self.metrics.report = ProgressLines()

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
