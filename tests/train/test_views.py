"""Own views in a run: several views of two sizes, and methods that accept only two views."""

from pathlib import Path
from typing import Any

import pytest

from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import Config
from hex_ssl.train.methods import METHODS
from hex_ssl.train.pretrain import prepare


def multi_crop(root: Path, backbone: str = "small_resnet", **method: Any) -> Config:
    """Two large and three small views of generated images."""
    views = [
        {"crop_scale": [0.3, 1.0], "count": 2},
        {"crop_scale": [0.1, 0.3], "size": 8, "count": 3},
    ]
    data = {"name": "hierarchy", "image_size": 16, "batch_size": 64, "views": views, "fraction": 0.1}
    return Config.from_dict(
        {
            "method": {"name": "simclr", "hidden_dim": 16, "output_dim": 8, **method},
            "loss": {"hex": "adaptive"},
            "backbone": {"name": backbone, "width": 4},
            "data": data,
            "run": {"root": str(root), "epochs": 1, "progress": False},
        }
    )


def test_views_of_two_sizes(tmp_path: Path) -> None:
    """Multi-crop: the small views are a separate batch, and the loss uses all five."""
    run = prepare(multi_crop(tmp_path))
    seen: list[tuple[int, ...]] = []
    run.method.backbone.register_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape)) if module.training else None
    )
    run.train()
    assert seen[:2] == [(2 * 64, 3, 16, 16), (3 * 64, 3, 8, 8)]
    figures = read_metrics(run.folder)[-1]
    assert figures["loss"] > 0
    assert figures["classifier_accuracy"] >= 0


def test_methods_of_two_views_refuse_more(tmp_path: Path) -> None:
    for method in set(METHODS) - {"simclr"}:
        with pytest.raises(ValueError, match=f"to give 2 views of each image, which {method} takes, but got 5"):
            prepare(multi_crop(tmp_path, name=method))
    assert list(tmp_path.iterdir()) == []


def test_backbones_of_one_size_refuse_others(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"to be a network for images \[1, 3, 8, 8\], as `data.image_size` makes them"):
        prepare(multi_crop(tmp_path, backbone="vit_tiny"))
    assert list(tmp_path.iterdir()) == []
