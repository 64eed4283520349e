"""A short run on the digits, trained once for all tests that use it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hex_ssl.train.config import Config
from hex_ssl.train.pretrain import pretrain
from hex_ssl.train.recipes import load_recipe

MakeConfig = Callable[..., Config]

TIMES = ("seconds", "images_per_second")


def untimed(rows: list[Any]) -> list[Any]:
    """Rows of metrics without the columns that differ between equal runs."""
    return [{name: figure for name, figure in row.items() if name not in TIMES} for row in rows]


def short_config(root: Path, name: str = "run", recipe: str = "simclr_hex", **run: Any) -> Config:
    """A quick recipe, shortened."""
    config = Config.from_dict(load_recipe(f"quick/{recipe}"))
    settings = {"epochs": 2, "knn_every": 1, "progress": False, **run}
    return replace(
        config,
        backbone=replace(config.backbone, width=8),
        optimizer=replace(config.optimizer, warmup_epochs=1),
        run=replace(config.run, root=str(root), name=name, **settings),
    )


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """Returns configurations of short runs in a temporary folder."""
    return lambda **settings: short_config(tmp_path, **settings)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with HEX, 12 epochs, and a k-NN every 5 epochs."""
    return pretrain(short_config(tmp_path_factory.mktemp("runs"), epochs=12, knn_every=5))
