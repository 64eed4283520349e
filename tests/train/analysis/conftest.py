"""Runs to analyse: a trained run, and runs with known numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from hex_ssl.train.analysis import AnalyzeConfig, analyze
from hex_ssl.train.config import Config
from hex_ssl.train.pretrain import pretrain

CLASSES, SUPERCLASSES = 6, 3
Arrays = dict[str, Path]


def clusters(
    rows: int = 90, dims: int = 12, spread: float = 1.0, seed: int = 0, superclasses: int = SUPERCLASSES
) -> NDArray[np.float32]:
    """Rows around class centres. Classes of the same superclass have similar centres."""
    generator = np.random.default_rng(seed)
    classes = 2 * superclasses
    labels = np.arange(rows) % classes
    trunk = 2.0 * generator.standard_normal((superclasses, dims))
    centres = trunk[np.arange(classes) // 2] + generator.standard_normal((classes, dims))
    return (centres[labels] + spread * generator.standard_normal((rows, dims))).astype(np.float32)


def save_arrays(folder: Path, rows: int = 90, superclasses: int = SUPERCLASSES) -> Arrays:
    """Features of three epochs, in ever narrower clusters, and their labels, as .npy files.

    All have a direction in common, as projections do, so that the mean cosine is positive within each group.
    """
    paths = {name: folder / f"{name}.npy" for name in ("features", "labels", "superclasses")}
    epochs = [2.0 + clusters(rows, spread=spread, superclasses=superclasses) for spread in (3.0, 2.0, 1.0)]
    np.save(paths["features"], np.stack(epochs))
    np.save(paths["labels"], np.arange(rows) % (2 * superclasses))
    np.save(paths["superclasses"], np.arange(2 * superclasses) // 2)
    return paths


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """The features and labels of three superclasses, as files."""
    return save_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on images with superclasses, with all checkpoints."""
    settings = {
        "loss": {"hex": "adaptive"},
        "backbone": {"width": 4},
        "data": {"name": "hierarchy", "image_size": 16, "batch_size": 100, "fraction": 0.2},
        "run": {"name": "trained", "root": str(tmp_path_factory.mktemp("runs")), "epochs": 2, "keep_every": 1},
    }
    settings["run"] |= {"knn_every": 1, "progress": False}
    return pretrain(Config.from_dict(settings))


@pytest.fixture(scope="session")
def analysed(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The analysis of these arrays."""
    paths: dict[str, Any] = {name: str(path) for name, path in arrays.items()}
    return analyze(AnalyzeConfig(**paths, output=str(tmp_path_factory.mktemp("analysed")), plane="pca", bins=40))


def hand_made_run(
    folder: Path, analysed: Path, hex_name: str = "adaptive", losses: tuple[float, ...] = (3.0, 2.5, 2.125)
) -> Path:
    """A run folder with known numbers: metrics, an analysis, and the results of an evaluation."""
    shutil.copytree(analysed, folder / "analysis")
    config = Config.from_dict({"loss": {"hex": hex_name}, "run": {"name": folder.name, "epochs": len(losses)}})
    (folder / "config.yaml").write_text(yaml.safe_dump(config.as_dict()), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"epoch": epoch, "step": 10 * epoch, "loss": loss, "knn_accuracy": 0.5 + 0.125 * epoch / len(losses)}
        for epoch, loss in enumerate(losses, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "evaluation").mkdir()
    results = {
        "command": "knn",
        "protocol": {"description": "k-NN: cosine."},
        "rows": [{"dataset": "digits", "epoch": 3, "k": 20, "weights": "abc", "top1": 0.734375, "top5": 0.96875}],
    }
    (folder / "evaluation" / "knn-1.json").write_text(json.dumps(results), encoding="utf-8")
    drawn = {
        "command": "probe",
        "protocol": {"description": "Probe: a layer."},
        "rows": [
            {"dataset": "digits", "epoch": 3, "fraction": 0.01, "weights": "abc", "top1": 0.5, "top5": 0.75}
            | {"deviation": {"top1": 0.03125}, "draws": {"top1": [0.46875, 0.53125]}}
        ],
    }
    (folder / "evaluation" / "probe-1.json").write_text(json.dumps(drawn), encoding="utf-8")
    return folder
