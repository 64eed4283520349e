"""The commands, compared with scikit-learn on the same features."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hex_ssl.train.config import BackboneConfig, Config, DataConfig, OptimizerConfig, RunConfig
from hex_ssl.train.evaluate import (
    FinetuneConfig,
    KNNConfig,
    ProbeConfig,
    Results,
    TransferConfig,
    extract_features,
    read_results,
    run_finetune,
    run_knn,
    run_probe,
    run_transfer,
)
from hex_ssl.train.evaluate.commands import Measuring
from hex_ssl.train.evaluate.results import open_results
from hex_ssl.train.evaluate.source import ImageShape
from hex_ssl.train.evaluate.splits import open_splits
from hex_ssl.train.methods.settings import SimCLRSettings
from hex_ssl.train.pretrain import load_method, pretrain
from tests.train.data.layouts import LAYOUTS, TINY

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def arrays(folder: Path, space: str = "backbone") -> Arrays:
    """Features and labels of the last checkpoint, computed with the Lightning module instead of the commands."""
    method = load_method(folder)
    network = method.backbone if space == "backbone" else torch.nn.Sequential(method.backbone, method.projector)
    splits = open_splits("hierarchy", None, ImageShape(3, 16))
    train, test = extract_features(network, splits.train), extract_features(network, splits.test)
    return train.h.numpy(), train.labels.numpy(), test.h.numpy(), test.labels.numpy()


def forbid_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Measuring, "measure", forbidden)


@pytest.mark.parametrize("space", ["backbone", "projection"])
def test_knn_is_scikit_learn_s_on_the_same_features(folder: Path, space: Any) -> None:
    results = run_knn(KNNConfig(str(folder), space=space, k=[5, 20], temperature=[0.1]))
    train, labels, test, truth = arrays(folder, space)
    superclass = np.arange(20) // 4
    few = 0.01  # the k-th neighbours of some images are as near as the next, as far as float32 tells
    assert [row["k"] for row in results.rows] == [5, 20]
    for row in results.rows:
        classifier = KNeighborsClassifier(
            row["k"], weights=lambda distances: np.exp((1 - distances) / 0.1), metric="cosine"
        )
        predicted = classifier.fit(train, labels).predict(test)
        assert row["top1"] == pytest.approx((predicted == truth).mean(), abs=few)
        predicted = classifier.fit(train, superclass[labels]).predict(test)
        assert row["superclass_top1"] == pytest.approx((predicted == superclass[truth]).mean(), abs=few)
        assert row["top1"] <= row["top5"] <= 1.0


def test_probe_is_scikit_learn_s_on_the_same_features(folder: Path) -> None:
    row = run_probe(ProbeConfig(str(folder), regularisation=0.1)).rows[0]
    train, labels, test, truth = arrays(folder)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probabilities = probe.fit(train.astype(float), labels).predict_proba(test.astype(float))
    assert row["top1"] == pytest.approx((probabilities.argmax(axis=1) == truth).mean(), abs=2 / len(truth))
    above = probabilities.reshape(len(test), 5, 4).sum(axis=2).argmax(axis=1)
    assert row["superclass_top1"] == pytest.approx((above == truth // 4).mean(), abs=2 / len(truth))


def test_results_carry_their_protocol_in_the_file_and_in_the_table(folder: Path) -> None:
    results = run_knn(
        KNNConfig(str(folder), epochs="0,2", k=[7], temperature=[0.2], fractions=[0.1, 1.0], draws=3, seed=5)
    )
    saved = json.loads(results.path.read_text())
    assert results.path.parent == folder / "evaluation"
    assert saved["protocol"]["settings"] == {"knn": {"k": [7], "temperature": [0.2], "distance": "cosine"}}
    assert (saved["protocol"]["space"], saved["protocol"]["seed"], saved["protocol"]["draws"]) == ("backbone", 5, 3)
    assert saved["environment"]["torch"] == torch.__version__
    assert read_results(results.path).rows == results.rows
    keys = [(row["epoch"], row["fraction"], row["train_images"]) for row in results.rows]
    assert keys == [(0, 0.1, 200), (0, 1.0, 2000), (2, 0.1, 200), (2, 1.0, 2000)]
    for row in results.rows:
        assert (row["dataset"], row["test_images"], row["classes"], row["superclasses"]) == ("hierarchy", 500, 20, 5)
        assert len(row["weights"]) == 64
    drawn = results.rows[0]
    assert drawn["top1"] == pytest.approx(np.mean(drawn["draws"]["top1"]))
    assert drawn["deviation"]["top1"] == pytest.approx(np.std(drawn["draws"]["top1"], ddof=1))
    assert len(set(drawn["draws"]["top5"])) > 1
    table = results.table()
    assert "| dataset   | epoch | by  | labels | k | T   |" in table
    assert f"{100 * drawn['top1']:.2f} +- {100 * drawn['deviation']['top1']:.2f}" in table
    for words in ("cosine, k = 7, votes exp(cos / T), T = 0.2", "the test images", "3 draws", "seed 5", "16x16"):
        assert words in table


def test_what_was_measured_is_not_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = KNNConfig(str(folder), epochs="0,1")
    first = run_knn(config)
    with monkeypatch.context() as patched:
        forbid_measuring(patched)
        assert run_knn(config).rows == first.rows
        for other in (replace(config, again=True), replace(config, k=[3]), replace(config, epochs="2")):
            with pytest.raises(AssertionError, match="measured again"):
                run_knn(other)
    more = run_knn(replace(config, epochs="all"))
    assert [row["epoch"] for row in more.rows] == [0, 1, 2]  # the last checkpoint is that of epoch 2
    assert more.path == first.path
    other_settings = run_knn(replace(config, k=[3]))
    assert other_settings.path != first.path


def test_another_network_of_the_same_epoch_replaces_the_old_one(folder: Path) -> None:
    first = run_knn(KNNConfig(str(folder), epochs="1"))
    checkpoints = folder / "checkpoints"
    (checkpoints / "epoch-0000.ckpt").replace(checkpoints / "epoch-0001.ckpt")
    second = run_knn(KNNConfig(str(folder), epochs="1"))
    assert len(second.rows) == 1
    assert second.rows[0]["weights"] != first.rows[0]["weights"]


def test_an_output_with_another_protocol_is_not_changed(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "here" / "knn.json"
    run_knn(KNNConfig(str(folder), output=str(output)))
    before = output.read_bytes()
    with pytest.raises(
        ValueError, match=r"hold results by the same protocol, but .*knn.json holds those of knn with another"
    ):
        run_knn(KNNConfig(str(folder), k=[3], output=str(output)))
    assert output.read_bytes() == before
    output.write_text("{")
    with pytest.raises(ValueError, match=r"expected .*knn.json to hold results of hex-ssl"):
        run_knn(KNNConfig(str(folder), output=str(output)))


def test_other_words_for_the_same_protocol_find_earlier_results(tmp_path: Path) -> None:
    def opened(words: str, k: int = 20, output: str | None = None) -> Results:
        return open_results("knn", tmp_path, tmp_path, {"settings": {"k": k}, "description": words}, output)

    first = opened("k-NN.")
    first.add([{"dataset": "digits", "by": "knn", "fraction": 1.0, "weights": "a", "epoch": 5, "top1": 0.5}])
    for output in (None, str(first.path)):
        again = opened("k nearest neighbours.", output=output)
        assert (again.path, again.rows) == (first.path, first.rows)
        assert "k nearest neighbours." in again.table()
    assert opened("k-NN.", k=5).path != first.path
    with pytest.raises(ValueError, match=r"holds those of knn with another settings$"):
        opened("k nearest neighbours.", k=5, output=str(first.path))


@pytest.mark.parametrize(
    ("method", "rate"), [("simclr", 1.0), ("barlow_twins", 0.1), ("mocov2", 3.0), ("simsiam", 30.0), (None, 0.02)]
)
def test_sgd_has_the_learning_rate_of_the_method(folder: Path, method: str | None, rate: float) -> None:
    if method is None:
        config = ProbeConfig(str(folder), solver="sgd", probe_epochs=1, learning_rate=rate)
    else:
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("name: simclr", f"name: {method}"))
        config = ProbeConfig(str(folder), solver="sgd", probe_epochs=1)
    results = run_probe(config)
    assert results.protocol["settings"]["probe"]["learning_rate"] == rate
    assert f"learning rate {rate:g}" in results.table()


def test_sgd_on_crops_runs_the_network_anew_and_is_seeded(folder: Path) -> None:
    config = ProbeConfig(str(folder), solver="sgd", probe_epochs=3, fractions=[0.1], augment=True, num_workers=0)
    first = run_probe(config)
    again = run_probe(replace(config, again=True))
    plain = run_probe(replace(config, augment=False))
    assert first.rows[0]["top1"] == again.rows[0]["top1"] > 0.05
    assert first.rows[0]["top5"] != plain.rows[0]["top5"]


def test_holding_out_tests_on_training_images(folder: Path) -> None:
    results = run_knn(KNNConfig(str(folder), holdout=0.2))
    assert (results.rows[0]["train_images"], results.rows[0]["test_images"]) == (1600, 400)
    assert "20 % of the training images, held out" in results.table()


def test_finetuning_with_labels_beats_the_frozen_network(folder: Path) -> None:
    config = FinetuneConfig(
        str(folder), finetune_epochs=5, finetune_batch_size=50, learning_rate=0.1, fractions=[0.5], num_workers=0
    )
    tuned = run_finetune(config).rows[0]
    frozen = run_knn(KNNConfig(str(folder), fractions=[0.5])).rows[0]
    assert tuned["train_images"] == 1000
    assert tuned["top1"] > frozen["top1"]
    assert tuned["superclass_top1"] > tuned["top1"]


def transfer(folder: Path, **settings: Any) -> TransferConfig:
    return TransferConfig(str(folder), **{"datasets": ["digits", "hierarchy"], "by": ["knn"], **settings})


def test_transfer_continues_with_the_dataset_at_which_it_was_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stop(line: str) -> None:
        if "top-1" in line:
            raise StoppedError(line)

    with pytest.raises(StoppedError, match=r"digits  knn  epoch 2  100 % of the labels  top-1 \d"):
        run_transfer(transfer(folder), stop)
    lines: list[str] = []
    results = run_transfer(transfer(folder), lines.append)
    assert [line.split()[0] for line in lines if "top-1" in line] == ["hierarchy"]
    assert [row["dataset"] for row in results.rows] == ["digits", "hierarchy"]
    alone = run_knn(KNNConfig(str(folder))).rows[0]
    assert results.rows[1]["top1"] == alone["top1"]
    assert "superclass_top1" not in results.rows[0]  # the digits have none
    assert "| digits    | 2     | knn | 100 %  | 20 | 0.07 |" in results.table()
    forbid_measuring(monkeypatch)
    run_transfer(transfer(folder, datasets=["hierarchy"]))  # in the same file


def test_transfer_by_several_protocols_at_once(folder: Path) -> None:
    results = run_transfer(transfer(folder, datasets=["digits"], by=["knn", "probe"], fractions=[0.1]))
    assert [(row["by"], row.get("k")) for row in results.rows] == [("knn", 20), ("probe", None)]
    assert set(results.protocol["settings"]) == {"knn", "probe"}
    assert "linear probe: logistic regression" in results.table()


def test_table_says_by_what_each_dataset_was_normalised(folder: Path) -> None:
    lines = run_transfer(transfer(folder)).table().splitlines()
    assert "normalised by the mean and deviation below." in lines[-6]
    assert lines[-2:] == [
        "- images of digits: mean 0.3054 0.3054 0.3054, deviation 0.3761 0.3761 0.3761 (of the training images), "
        "grey as colours",
        "- images of hierarchy: mean 0.5 0.5 0.5, deviation 0.178 0.178 0.163 (of the training images)",
    ]


def test_transfer_checks_all_datasets_first(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(FileNotFoundError, match="to be the folder that holds cifar10, but .*nowhere does not exist"):
        run_transfer(transfer(folder, datasets=["digits", f"cifar10={tmp_path / 'nowhere'}"]), lines.append)
    with pytest.raises(ValueError, match='did you mean "hierarchy"'):
        run_transfer(transfer(folder, datasets=["digits", "hierarchi"]), lines.append)
    assert not lines
    assert not (folder / "evaluation").exists()


@TINY
def test_superclasses_are_of_the_run_s_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["inaturalist2021"](tmp_path / "images", monkeypatch)
    config = Config(
        method=SimCLRSettings(hidden_dim=8, output_dim=4),
        backbone=BackboneConfig(width=4),
        data=DataConfig(
            "inaturalist2021", str(tmp_path / "images"), level="kingdom", image_size=8, batch_size=4, num_workers=0
        ),
        optimizer=OptimizerConfig(warmup_epochs=0.0),
        run=RunConfig(root=str(tmp_path), epochs=1, progress=False),
    )
    lines: list[str] = []
    results = run_knn(KNNConfig(str(pretrain(config)), k=[1], num_workers=0), lines.append)
    assert results.rows[0]["superclasses"] == 2  # of the 2 kingdoms; there are 3 orders
    assert lines[0] == "inaturalist2021: 8 labelled images to train with, 4 to test with, classes: 4"


def test_folders_of_images_are_distinguished(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    for root, shade in (("one", 40), ("two", 200)):
        for split in ("train", "test"):
            for name in ("cats", "dogs"):
                place = tmp_path / root / split / name
                place.mkdir(parents=True)
                for index in range(3):
                    pixels = generator.integers(shade, size=(20, 24, 3), dtype=np.uint8) + (name == "dogs") * 40
                    Image.fromarray(pixels).save(place / f"{index}.png")
    names = [f"folder={tmp_path / root}" for root in ("one", "two")]
    results = run_transfer(transfer(folder, datasets=names, num_workers=0))
    assert [row["dataset"] for row in results.rows] == names
    one = run_knn(KNNConfig(str(folder), dataset="folder", root=str(tmp_path / "one"), num_workers=0))
    assert one.rows[0]["dataset"] == names[0]
    assert one.rows[0]["test_images"] == 6


def test_a_backbone_of_unknown_origin_needs_a_dataset(finished: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    exported = finished / "backbone.safetensors"
    with safe_open(str(exported), framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "run"}
    lone = tmp_path / "lone.safetensors"
    save_file(load_file(exported), lone, metadata)
    with pytest.raises(ValueError, match="expected `dataset` to be given, because .* does not name its dataset"):
        run_knn(KNNConfig(str(lone)))
    results = run_knn(KNNConfig(str(lone), dataset="hierarchy"))
    assert results.rows[0]["top1"] == run_knn(KNNConfig(str(finished), output=str(tmp_path / "x.json"))).rows[0]["top1"]
    assert results.path.parent == tmp_path / "evaluation"
    sgd = run_probe(ProbeConfig(str(lone), dataset="digits", solver="sgd", probe_epochs=1))
    assert sgd.protocol["settings"]["probe"]["learning_rate"] == 1.0


def test_a_table_without_rows_is_empty(tmp_path: Path) -> None:
    assert "None." in Results("knn", "x", {"description": "None."}, tmp_path / "x.json").table()
