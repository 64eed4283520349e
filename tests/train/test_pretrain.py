"""The main job: what a run leaves behind, that it learns, that it repeats, and that it goes on."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from hex_ssl.backbones import load_backbone
from hex_ssl.callbacks.metrics import read_metrics
from hex_ssl.config import Config
from hex_ssl.data import PretrainData
from hex_ssl.evaluate import evaluate_backbone, extract_features, knn_accuracy
from hex_ssl.methods import SimCLR
from hex_ssl.pretrain import build, pretrain

from .conftest import MakeConfig

FIGURES = {
    "epoch",
    "step",
    "loss",
    "threshold",
    "hierarchical_negatives",
    "positive_similarity",
    "negative_similarity",
    "floor_fraction",
    "undefined_anchors",
    "learning_rate",
    "knn_accuracy",
}


def config_of(folder: Path) -> Config:
    return Config.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))


def test_run_folder_holds_everything(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "metrics.csv", "metrics.jsonl", "checkpoints/last.ckpt", "backbone.safetensors"}
    assert config_of(trained).run.epochs == 12


def test_metrics_have_one_line_per_epoch(trained: Path) -> None:
    rows = read_metrics(trained)
    assert [row["epoch"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows] == [5 * epoch for epoch in range(13)]
    assert [row["epoch"] for row in rows if "knn_accuracy" in row] == [0, 5, 10, 12]
    assert rows[-1].keys() == FIGURES
    assert all(row["hierarchical_negatives"] > 0 for row in rows[1:])


def test_csv_says_the_same_as_the_json_lines(trained: Path) -> None:
    with open(trained / "metrics.csv", newline="") as file:
        table = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert table == read_metrics(trained)


@pytest.mark.parametrize("loss", ["hex", "ntxent"])
def test_ends_above_the_untrained_backbone(loss: str, trained: Path, make_config: MakeConfig) -> None:
    folder = trained if loss == "hex" else pretrain(make_config(loss=loss, epochs=12, knn_every=12))
    data, untrained = build(config_of(folder))
    before, after = (
        evaluate_backbone(each, data) for each in (untrained.backbone, load_backbone(folder / "backbone.safetensors"))
    )
    assert after["knn_accuracy"] > before["knn_accuracy"]
    assert after["probe_accuracy_few_labels"] > before["probe_accuracy_few_labels"] + 0.05
    rows = read_metrics(folder)
    assert rows[0]["knn_accuracy"] == pytest.approx(before["knn_accuracy"])
    assert rows[-1]["loss"] < rows[1]["loss"]


def test_exported_backbone_is_the_trained_one(trained: Path) -> None:
    backbone = load_backbone(trained / "backbone.safetensors")
    config = config_of(trained)
    data = PretrainData(config.data, config.run.seed)
    bank, test = (extract_features(backbone, data.split(name)) for name in ("train", "test"))
    assert knn_accuracy(bank, test) == pytest.approx(read_metrics(trained)[-1]["knn_accuracy"])
    with safe_open(str(trained / "backbone.safetensors"), framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["backbone"])["width"] == 8
    assert json.loads(metadata["images"]) == {"in_channels": 1, "image_size": 8}


def test_equal_seeds_give_equal_weights_and_others_do_not(make_config: MakeConfig) -> None:
    torch.manual_seed(123)  # must not matter
    first, second, other = (
        load_file(pretrain(make_config(name=name, seed=seed, epochs=1)) / "backbone.safetensors")
        for name, seed in (("first", 3), ("second", 3), ("other", 4))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_resumed_run_ends_like_the_uninterrupted_one(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain(make_config(name="whole", epochs=3))
    config = make_config(name="interrupted", epochs=3)
    at_epoch_start = SimCLR.on_train_epoch_start

    def fail_in_last_epoch(method: SimCLR) -> None:
        if method.current_epoch == 2:
            raise RuntimeError("the power went")
        at_epoch_start(method)

    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "on_train_epoch_start", fail_in_last_epoch)
        with pytest.raises(RuntimeError, match="the power went"):
            pretrain(config)
    folder = pretrain(replace(config, run=replace(config.run, existing="resume")))
    expected, found = load_file(whole / "backbone.safetensors"), load_file(folder / "backbone.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert read_metrics(folder) == read_metrics(whole)


def test_leaves_the_process_as_it_was(make_config: MakeConfig) -> None:
    pretrain(make_config(epochs=1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_warm_up_lasts_its_epochs(make_config: MakeConfig) -> None:
    config = make_config(epochs=2, knn_every=2)
    folder = pretrain(replace(config, loss=replace(config.loss, warmup_epochs=1)))
    _, warming_up, after = read_metrics(folder)
    assert (warming_up["hierarchical_negatives"], warming_up["threshold"]) == (0.0, None)
    assert after["hierarchical_negatives"] > 0
