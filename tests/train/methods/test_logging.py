"""A method logs its metrics with Lightning, unless this package's callback logs them."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from hex_ssl.train.callbacks import EpochMetrics

from .small import random_batch, small_method

STEPS = 3


def fit(method: L.LightningModule, folder: Path, **settings: Any) -> L.Trainer:
    """Trains for an epoch with `log_every_n_steps=1`."""
    loader = DataLoader([random_batch(12, seed) for seed in range(STEPS)], batch_size=None)  # type: ignore[arg-type]
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        log_every_n_steps=1,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(method, loader)
    return trainer


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers")
class TestLogging:
    def test_a_plain_trainer_logs_loss_and_statistics(self, tmp_path: Path) -> None:
        method = small_method("nnclr", hex="adaptive")
        logger = CSVLogger(tmp_path)
        trainer = fit(method, tmp_path, logger=logger)
        names = {"loss", *method.statistics()}
        assert {"projection_std", "queue_fill", "threshold"} <= names
        assert trainer.logged_metrics.keys() == names
        for name, value in method.statistics().items():  # those of the last step
            assert trainer.logged_metrics[name] == pytest.approx(float(value))
        header, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
        assert set(header.split(",")) == names | {"epoch", "step"}
        assert len(rows) == STEPS

    def test_a_run_logs_only_the_means(self, tmp_path: Path) -> None:
        method = small_method("nnclr", hex="adaptive")
        logger = CSVLogger(tmp_path)
        trainer = fit(method, tmp_path, logger=logger, callbacks=[EpochMetrics()])
        assert trainer.logged_metrics.keys() == set()
        _, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
        assert len(rows) == 1  # of the epoch

    def test_a_step_reads_no_value_from_the_device(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        method = small_method("simclr", hex="adaptive")
        asked: list[str] = []
        logged: list[Any] = []
        item = torch.Tensor.item

        def noted(tensor: torch.Tensor) -> Any:
            asked.append("item")
            return item(tensor)

        log_dict = method.log_dict

        def log_watched(*arguments: Any, **settings: Any) -> None:
            logged.append(arguments)
            with monkeypatch.context() as patch:
                for name in ("item", "__float__", "__bool__", "tolist"):
                    patch.setattr(torch.Tensor, name, noted)
                log_dict(*arguments, **settings)

        monkeypatch.setattr(method, "log_dict", log_watched)
        fit(method, tmp_path, logger=False)
        assert len(logged) == STEPS
        assert asked == []
