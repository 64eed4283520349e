"""Each method, with and without HEX, trains for seconds on the digits and ends better than its untrained backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import Config
from hex_ssl.train.methods import METHODS
from hex_ssl.train.pretrain import pretrain
from hex_ssl.train.recipes import load_recipe

HEADS = {"hidden_dim": 64, "output_dim": 32, "predictor_dim": 64, "queue_size": 512}
LENGTH = {"byol": (8, 64)}
"""Epochs and images per step if they are not 6 and 128. BYOL's target moves slowly, so it needs more steps."""
MOMENTUM = 0.99
"""Momentum of the momentum encoders. With 0.9, BYOL's target follows too closely on such a small network."""


def shortened(recipe: str, root: Path) -> Config:
    """A quick recipe with a smaller network and 66 steps (BYOL: 176)."""
    config = Config.from_dict(load_recipe(f"quick/{recipe}"))
    method = config.method
    heads: dict[str, Any] = {name: size for name, size in HEADS.items() if hasattr(method, name)}
    if hasattr(method, "momentum"):
        heads["momentum"] = MOMENTUM
    epochs, batch_size = LENGTH.get(method.name, (6, 128))
    return replace(
        config,
        method=replace(method, **heads),
        backbone=replace(config.backbone, width=8),
        data=replace(config.data, batch_size=batch_size),
        optimizer=replace(config.optimizer, warmup_epochs=1),
        run=replace(config.run, root=str(root), epochs=epochs, knn_every=epochs, progress=False, classifier=False),
    )


@pytest.mark.parametrize("kind", ["", "_hex"], ids=["off", "adaptive"])
@pytest.mark.parametrize("name", METHODS)
def test_it_ends_above_its_untrained_backbone(name: str, kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)  # networks this small only wait for a second one
    config = shortened(f"{name}{kind}", tmp_path)
    assert (config.method.name, config.loss.hex) == (name, "adaptive" if kind else "off")
    untrained, *_, trained = read_metrics(pretrain(config))
    assert (untrained["epoch"], trained["epoch"]) == (0, config.run.epochs)
    assert trained["knn_accuracy"] > untrained["knn_accuracy"] + 0.02  # type: ignore[operator]
    # No collapse: 1 would be projections that fill their space evenly.
    assert 0.1 < trained["projection_std"] * HEADS["output_dim"] ** 0.5 < 1.01  # type: ignore[operator]
    assert ("floor_fraction" in trained) == (bool(kind) or name == "simclr")
