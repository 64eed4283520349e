"""Pretraining: a run's files, that it learns, that it is reproducible, and that it resumes."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hex_ssl.train.backbones import load_backbone
from hex_ssl.train.callbacks import Checkpoints
from hex_ssl.train.callbacks.metrics import read_metrics
from hex_ssl.train.config import BackboneConfig, Config, DataConfig
from hex_ssl.train.data import PretrainData
from hex_ssl.train.evaluate import evaluate_backbone, extract_features, knn_accuracy
from hex_ssl.train.pretrain import build, load_method, prepare, pretrain

from .conftest import MakeConfig, untimed

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
    "projection_std",
    "learning_rate",
    "seconds",
    "images_per_second",
    "knn_accuracy",
    "classifier_accuracy",
}


def config_of(folder: Path) -> Config:
    return Config.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))


def test_run_folder_contains_all_files(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files == {
        *(".lock", "config.yaml", "environment.json", "data.json", "metrics.csv", "metrics.jsonl"),
        *("checkpoints/last.ckpt", "backbone.safetensors"),
    }
    assert config_of(trained).run.epochs == 12


@pytest.mark.parametrize(("minutes", "expected"), [(60.0, [10, 20, 25]), (1e-9, [*range(1, 26)])])
def test_checkpoints_at_the_end_of_some_epochs(
    minutes: float, expected: list[int], make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second epoch and the last one, and whenever it is time. An epoch has 5 steps."""
    saved: list[int] = []
    monkeypatch.setattr(Checkpoints, "_save", lambda self, trainer: saved.append(trainer.global_step))
    pretrain(make_config(epochs=5, knn_every=9, checkpoint_epochs=2, checkpoint_minutes=minutes))
    assert saved == expected


def test_metrics_have_one_line_per_epoch(trained: Path) -> None:
    rows = read_metrics(trained)
    assert [row["epoch"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows] == [5 * epoch for epoch in range(13)]
    assert [row["epoch"] for row in rows if "knn_accuracy" in row] == [0, 5, 10, 12]
    assert rows[-1].keys() == FIGURES
    assert all(row["images_per_second"] == pytest.approx(5 * 256 / row["seconds"]) for row in rows[1:])
    assert all(row["hierarchical_negatives"] > 0 for row in rows[1:])


def test_csv_equals_the_json_lines(trained: Path) -> None:
    with open(trained / "metrics.csv", newline="") as file:
        table = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert table == read_metrics(trained)


@pytest.mark.parametrize("recipe", ["simclr_hex", "simclr"])
def test_ends_above_the_untrained_backbone(recipe: str, trained: Path, make_config: MakeConfig) -> None:
    folder = trained if recipe == "simclr_hex" else pretrain(make_config(recipe=recipe, epochs=12, knn_every=12))
    data, untrained = build(config_of(folder))
    before, after = (
        evaluate_backbone(each, data) for each in (untrained.backbone, load_backbone(folder / "backbone.safetensors"))
    )
    assert after["knn_accuracy"] > before["knn_accuracy"]
    assert after["probe_accuracy_few_labels"] > before["probe_accuracy_few_labels"] + 0.05
    rows = read_metrics(folder)
    assert rows[0]["knn_accuracy"] == pytest.approx(before["knn_accuracy"])
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert rows[-1]["classifier_accuracy"] > 0.6 > 0.2 > rows[0]["classifier_accuracy"]


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
    assert Config.from_dict(json.loads(metadata["run"])) == config


def test_equal_seeds_give_equal_weights_and_others_do_not(make_config: MakeConfig) -> None:
    torch.manual_seed(123)  # must not matter
    first, second, other = (
        load_file(pretrain(make_config(name=name, seed=seed, epochs=1)) / "backbone.safetensors")
        for name, seed in (("first", 3), ("second", 3), ("other", 4))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_kept_checkpoints_have_the_method_at_their_epoch(make_config: MakeConfig) -> None:
    config = make_config(recipe="nnclr", epochs=3, keep_every=2, classifier=False)
    folder = pretrain(config)
    assert sorted(each.name for each in (folder / "checkpoints").iterdir()) == [
        *("epoch-0000.ckpt", "epoch-0002.ckpt", "last.ckpt"),
    ]
    _, fresh = build(config)
    untrained, kept, last = (load_method(folder, name) for name in ("epoch-0000", "epoch-0002", "last"))
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(untrained.state_dict()[name], tensor)
    assert (int(kept.queue.filled), int(last.queue.filled)) == (1024, 1024)  # type: ignore[union-attr,arg-type]
    assert (int(kept.queue.pointer), int(last.queue.pointer)) == (512, 768)  # type: ignore[union-attr,arg-type]
    exported = load_file(folder / "backbone.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in last.backbone.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r"\(epoch-0000, epoch-0002, last\), but got \"epoch-0001\""):
        load_method(folder, "epoch-0001")


def test_finished_run_resumed_with_nothing_to_do_exports_again(make_config: MakeConfig) -> None:
    folder = pretrain(make_config(epochs=1))
    exported, metrics = load_file(folder / "backbone.safetensors"), (folder / "metrics.jsonl").read_text()
    (folder / "backbone.safetensors").unlink()
    pretrain(make_config(epochs=1, existing="resume"))
    again = load_file(folder / "backbone.safetensors")
    assert again.keys() == exported.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in exported.items())
    assert (folder / "metrics.jsonl").read_text() == metrics


def test_finished_run_gets_more_epochs_at_the_rates_of_a_longer_run(make_config: MakeConfig) -> None:
    folder = pretrain(make_config(epochs=2))
    first = read_metrics(folder)
    pretrain(make_config(epochs=4, existing="resume"))
    rows, whole = read_metrics(folder), read_metrics(pretrain(make_config(name="whole", epochs=4)))
    assert rows[:3] == first
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["learning_rate"] for row in rows[3:]] == [row["learning_rate"] for row in whole[3:]]
    assert rows[3]["learning_rate"] > 1e-3 > rows[4]["learning_rate"] > 1e-4  # and not at the end of the shorter run
    assert config_of(folder).run.epochs == 4
    with pytest.raises(
        ValueError, match=r"expected `run.epochs` to be at least 4, as many as have begun by .*last.ckpt"
    ):
        pretrain(make_config(epochs=3, existing="resume"))
    assert config_of(folder).run.epochs == 4


def test_precision_that_the_device_does_not_support_is_an_error(make_config: MakeConfig) -> None:
    config = make_config(precision="16-mixed", accelerator="cpu")
    message = "expected `run.precision` to be one that a CPU supports, such as bf16-mixed, but got 16-mixed"
    with pytest.raises(ValueError, match=message):
        prepare(config)
    assert not Path(config.run.root, config.run.name).exists()


def test_accumulation_warns_that_the_loss_stays_small(make_config: MakeConfig) -> None:
    config = make_config(epochs=1, accumulate=2)
    message = "each loss, with .*, still uses only `data.batch_size` = 256 images.*virtual_batch_size=512"
    with pytest.warns(UserWarning, match=message):
        folder = pretrain(config)
    assert read_metrics(folder)[-1]["step"] == 3  # of 5 batches
    whole = read_metrics(pretrain(make_config(name="whole", epochs=1)))[-1]
    assert read_metrics(folder)[-1]["loss"] == pytest.approx(whole["loss"], rel=0.1)


def test_milestones_that_are_not_reached_are_a_warning(make_config: MakeConfig) -> None:
    config = make_config(epochs=3)
    schedule = replace(config.optimizer, schedule="step", milestones=[1.5, 3.0, 60.0])
    with pytest.warns(UserWarning, match=r"`optimizer.milestones` 3, 60 will not be reached in 3 epochs"):
        prepare(replace(config, optimizer=schedule))


@pytest.mark.parametrize("recipe", ["simclr_hex", "byol", "all4one_hex", "mocov2_hex"])
def test_virtual_batch_equals_one_batch_of_that_size(recipe: str, make_config: MakeConfig) -> None:
    # Without dropout, which the chunks would draw otherwise, and without batch norm, whose batch is the chunk.
    def trained_weights(name: str, batch: int, virtual: int | None) -> tuple[dict[str, Tensor], Path]:
        config = make_config(recipe=recipe, name=name, epochs=1, precision="64-true")
        optimizer = replace(config.optimizer, name="sgd", learning_rate=0.05, warmup_epochs=0, scale_learning_rate=True)
        sizes = {
            "data": replace(config.data, batch_size=batch),
            "run": replace(config.run, virtual_batch_size=virtual),
        }
        run = prepare(replace(config, optimizer=optimizer, **sizes))
        _without_batch_norm(run.method)
        run.train()
        return {name: each for name, each in run.method.state_dict().items() if isinstance(each, Tensor)}, run.folder

    whole, whole_folder = trained_weights("whole", 480, None)
    parts, parts_folder = trained_weights("parts", 96, 480)
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-5, atol=1e-8)
    for one, other in zip(untimed(read_metrics(whole_folder)), untimed(read_metrics(parts_folder)), strict=True):
        assert one == pytest.approx(other, rel=1e-5, nan_ok=True)


def _without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norm = nn.GroupNorm(1, child.num_features, affine=child.affine).to(child.weight)
            module.add_module(name, norm.requires_grad_(child.weight.requires_grad))
        elif isinstance(child, nn.Dropout):
            child.p = 0.0
        else:
            if isinstance(child, nn.MultiheadAttention):
                child.dropout = 0.0
            _without_batch_norm(child)


def test_profiler_and_tensorboard_are_lightnings(make_config: MakeConfig) -> None:
    pytest.importorskip("tensorboard")
    folder = pretrain(make_config(epochs=1, profiler="simple", loggers=["tensorboard"]))
    assert "run_training_batch" in (folder / "fit-profile.txt").read_text()
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def test_missing_logger_says_what_to_install(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = make_config(loggers=["wandb"])
    with pytest.raises(ImportError, match=r"needs wandb, .* pip install 'hex-ssl\[loggers\]'"):
        prepare(config)
    assert not Path(config.run.root, config.run.name).exists()


def test_own_backbone_and_half_precision_train(make_config: MakeConfig) -> None:
    config = make_config(epochs=1, precision="bf16-mixed")
    backbone = BackboneConfig("tests.train.test_backbones:own_backbone", arguments={"width": 24})
    folder = pretrain(replace(config, backbone=backbone))
    assert load_backbone(folder / "backbone.safetensors", own_code=True)(torch.zeros(2, 1, 8, 8)).shape == (2, 24)
    assert read_metrics(folder)[-1]["knn_accuracy"] > 0.5


@pytest.mark.parametrize(
    ("folders", "lacks"),
    [
        (("",), "the training images have no labels"),
        (("train/a", "train/b"), "there are no test images"),
    ],
)
def test_run_without_labels_says_that_nothing_could_be_evaluated(
    folders: tuple[str, ...], lacks: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    for folder in folders:
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(12):
            pixels = torch.randint(0, 256, (12, 10, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / folder / f"{number}.png")
    config = make_config(epochs=1)
    data = DataConfig("folder", str(tmp_path / "images"), image_size=8, batch_size=4, num_workers=0)
    run = prepare(replace(config, data=data))
    run.train()
    assert "knn_accuracy" not in read_metrics(run.folder)[-1]
    assert (run.folder / "backbone.safetensors").is_file()
    assert run.summary() == f"trained, but nothing could be evaluated: {lacks}; everything is in {run.folder}"


def test_superclasses_are_evaluated_too(make_config: MakeConfig) -> None:
    config = make_config(epochs=1)
    data = DataConfig("hierarchy", image_size=8, batch_size=64, augment_on="device", fraction=0.1)
    rows = read_metrics(pretrain(replace(config, data=data)))
    for row in rows:
        assert row["knn_superclass_accuracy"] >= row["knn_accuracy"]
        assert 0 < row["classifier_superclass_accuracy"] <= 1


def test_settings_of_the_process_are_restored(make_config: MakeConfig) -> None:
    pretrain(make_config(epochs=1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_warm_up_lasts_its_epochs(make_config: MakeConfig) -> None:
    config = make_config(epochs=2, knn_every=2)
    folder = pretrain(replace(config, loss=replace(config.loss, warmup_epochs=1)))
    _, warming_up, after = read_metrics(folder)
    assert (warming_up["hierarchical_negatives"], warming_up["threshold"]) == (0.0, None)
    assert after["hierarchical_negatives"] > 0


def test_channels_last_gives_similar_results(make_config: MakeConfig) -> None:
    data = {"name": "hierarchy", "image_size": 16, "batch_size": 4}
    colour = build(Config.from_dict({"data": data, "run": {"channels_last": True}}))[0]
    views = colour.on_after_batch_transfer(next(iter(colour.train_dataloader())), 0).views
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in views)
    folder = pretrain(make_config(name="last", channels_last=True))
    last, plain = (read_metrics(each) for each in (folder, pretrain(make_config(name="plain"))))
    assert [row["loss"] for row in last[1:]] == pytest.approx([row["loss"] for row in plain[1:]], rel=1e-2)
    convolutions = [module for module in load_method(folder).modules() if isinstance(module, nn.Conv2d)]
    assert all(each.weight.is_contiguous(memory_format=torch.channels_last) for each in convolutions)
    assert load_backbone(folder / "backbone.safetensors")(torch.zeros(2, 1, 8, 8)).shape[0] == 2
