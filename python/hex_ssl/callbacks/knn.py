"""k-NN accuracy of the backbone while it trains."""

import lightning as L

from hex_ssl.data.module import PretrainData
from hex_ssl.evaluate.features import extract_features
from hex_ssl.evaluate.knn import knn_accuracy
from hex_ssl.methods.base import Method


class OnlineKNN(L.Callback):
    """Logs `knn_accuracy`: the training images, as they are, classify the test images.

    Before the first step, then after every `every` epochs, then after the last.

    Args:
        data: Gives the two splits.
        every: Epochs between two evaluations.
        k: Neighbours that vote.
        temperature: Temperature of the votes' weights.
    """

    def __init__(self, data: PretrainData, every: int, k: int = 20, temperature: float = 0.07) -> None:
        self.data = data
        self.every = every
        self.k = k
        self.temperature = temperature

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            untrained = {"epoch": 0.0, "knn_accuracy": self._accuracy(pl_module)}
            for logger in trainer.loggers:
                logger.log_metrics(untrained, step=0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every == 0 or done == trainer.max_epochs:
            pl_module.log("knn_accuracy", self._accuracy(pl_module), prog_bar=True)

    def _accuracy(self, pl_module: L.LightningModule) -> float:
        assert isinstance(pl_module, Method)
        bank = extract_features(pl_module.backbone, self.data.split("train"))
        test = extract_features(pl_module.backbone, self.data.split("test"))
        return knn_accuracy(bank, test, self.k, self.temperature)
