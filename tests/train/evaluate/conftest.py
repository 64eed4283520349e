"""A short run on images with superclasses, trained once for all tests that use it. No test changes it."""

import shutil
from pathlib import Path

import pytest

from hex_ssl.train.config import BackboneConfig, Config, DataConfig, OptimizerConfig, RunConfig
from hex_ssl.train.methods.settings import SimCLRSettings
from hex_ssl.train.pretrain import pretrain


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 2 epochs that kept the checkpoints of epochs 0, 1 and 2."""
    return pretrain(
        Config(
            method=SimCLRSettings(hidden_dim=16, output_dim=8),
            backbone=BackboneConfig(width=4),
            data=DataConfig(name="hierarchy", image_size=16, batch_size=100, fraction=0.2, augment_on="device"),
            optimizer=OptimizerConfig(warmup_epochs=0.0),
            run=RunConfig(
                root=str(tmp_path_factory.mktemp("runs")), epochs=2, keep_every=1, knn_every=2, seed=3, progress=False
            ),
        )
    )


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A separate copy for each test."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
