"""The analysis from arrays alone and from a run's checkpoints: tables, figures, errors."""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from hex_ssl.analysis import AnalyzeConfig, analyze, effective_rank
from hex_ssl.analysis.analyze import summarize
from hex_ssl.analysis.figures import CURVES
from hex_ssl.analysis.run import checkpoints_of, subject_from_run
from hex_ssl.pretrain import load_method
from hex_ssl.statistics import similarity_statistics
from tests.analysis.conftest import CLASSES, Arrays


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_of_arrays_are_what_the_functions_find(arrays: Arrays, tmp_path: Path) -> None:
    paths: dict[str, Any] = {name: str(path) for name, path in arrays.items()}
    folder = analyze(AnalyzeConfig(**paths, output=str(tmp_path / "out"), plane="pca", quantile=0.9, bins=50))
    features = np.load(arrays["features"])
    labels = np.arange(90) % CLASSES
    lines = table(folder / "similarity.csv")
    assert [line["epoch"] for line in lines] == ["0", "1", "2"]
    histograms = table(folder / "histograms.csv")
    for epoch, line in enumerate(lines):
        found = similarity_statistics(features[epoch], labels, labels // 2, 0.9, bins=50)
        assert float(line["threshold"]) == found.threshold
        assert float(line["above"]) == pytest.approx(found.above.sum(axis=1).mean())
        assert float(line["superclass_similarity"]) == found.mean()["superclass"]
        assert float(line["gap"]) == pytest.approx(found.mean()["superclass"] - found.mean()["other"])
        assert float(line["effective_rank"]) == effective_rank(features[epoch])
        other = [int(each["other"]) for each in histograms if each["epoch"] == str(epoch)]
        assert other == found.histogram[2].tolist()
    ranks = table(folder / "ranks.csv")
    assert len(ranks) == 3 * 3  # epochs, superclasses
    mean = np.mean([float(each["local"]) for each in ranks[:3]])
    assert float(lines[0]["local_rank"]) == pytest.approx(mean)
    assert float(lines[0]["knn_accuracy"]) < float(lines[2]["knn_accuracy"])
    sets = {line["set"] for line in table(folder / "plane.csv")}
    assert "all images" in sets
    assert any(each.startswith("within") for each in sets)
    assert len(table(folder / "nearest.csv")) == 7 * 5
    assert "knn_superclass_accuracy" in summarize(folder)


def test_each_figure_is_a_png_and_an_svg(analysed: Path) -> None:
    names = {*CURVES, "histograms", "figure-10-plane"}
    assert (
        {path.stem for path in analysed.glob("*.png")}
        == {path.stem for path in analysed.glob("*.svg")}
        >= names - {"figure-13-ratio"}
    )
    for path in analysed.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200
    for path in analysed.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_features_alone_are_enough(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.save(tmp_path / "z.npy", features)
    asked = AnalyzeConfig(features=str(tmp_path / "z.npy"), output=str(tmp_path / "out"), plane="none", quantile=0.9)
    folder = analyze(asked)
    (line,) = table(folder / "similarity.csv")
    assert line["knn_accuracy"] == line["superclass_similarity"] == line["local_rank"] == line["epoch"] == ""
    assert line["above_class"] == line["above_superclass"] == ""
    assert float(line["above"]) == float(line["above_other"]) > 0
    assert "superclass negatives" not in (folder / "figure-9-above-threshold.svg").read_text(encoding="utf-8")
    assert float(line["other_similarity"]) == similarity_statistics(features).mean()["other"]
    assert not (folder / "plane.csv").exists()
    assert not (folder / "ranks.csv").exists()


def test_a_run_is_analysed_by_its_checkpoints(trained_run: Path) -> None:
    stale = trained_run / "analysis" / "old.png"
    stale.parent.mkdir()
    stale.touch()
    folder = analyze(AnalyzeConfig(run=str(trained_run), beside=str(trained_run), plane="pca", images=120, anchors=2))
    assert not stale.exists()
    lines = table(folder / "similarity.csv")
    spaces = ["representation", "projection"]
    assert [(line["epoch"], line["space"]) for line in lines] == [
        (str(epoch), each) for epoch in range(3) for each in spaces
    ]
    assert all(line["images"] == "120" for line in lines)
    assert lines[0]["threshold"] != lines[4]["threshold"]
    result = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    assert result["has_superclasses"]
    assert result["nearest"][0]["anchor"]["picture"].startswith("data:image/png;base64,")
    assert set(result["planes"][0]["names"].values()) == {f"pattern {number}" for number in range(5)}
    for name in ("figure-14-beside", "figure-15-nearest", "figure-10-plane"):
        assert (folder / f"{name}.png").is_file()


def test_the_features_are_those_of_the_networks(trained_run: Path) -> None:
    subject = subject_from_run(trained_run, epochs="2", images=30, seed=5)
    (snapshot,) = subject.snapshots()
    method = load_method(trained_run, "epoch-0002")
    data_image = subject_from_run(trained_run, epochs="last", images=30, seed=5)
    (again,) = data_image.snapshots()
    np.testing.assert_array_equal(snapshot.spaces["projection"], again.spaces["projection"])
    with torch.no_grad():
        z = method.projector(torch.from_numpy(snapshot.spaces["representation"]))
    np.testing.assert_allclose(z.numpy(), snapshot.spaces["projection"], rtol=1e-4, atol=1e-5)
    assert subject.images is not None
    assert subject.classes is not None
    assert subject.superclasses is not None
    assert subject.images(np.arange(2)).shape == (2, 16, 16, 3)
    assert subject.superclasses.tolist() == (subject.classes // 4).tolist()


def test_checkpoints_are_found_by_epoch(trained_run: Path, tmp_path: Path) -> None:
    assert checkpoints_of(trained_run) == {0: "epoch-0000", 1: "epoch-0001", 2: "epoch-0002"}
    assert checkpoints_of(trained_run, "last") == {2: "epoch-0002"}
    assert checkpoints_of(trained_run, "2,0") == {0: "epoch-0000", 2: "epoch-0002"}
    with pytest.raises(FileNotFoundError, match=r"checkpoints of the epochs \[7\], but .* has those of \[0, 1, 2\]"):
        checkpoints_of(trained_run, "0,7")
    with pytest.raises(ValueError, match='to be "all", "last" or numbers such as "0,10,20", but got "first"'):
        checkpoints_of(trained_run, "first")
    with pytest.raises(FileNotFoundError, match="there are none"):
        checkpoints_of(tmp_path)
    alone = tmp_path / "checkpoints"
    alone.mkdir()
    (alone / "last.ckpt").write_bytes((trained_run / "checkpoints" / "last.ckpt").read_bytes())
    assert checkpoints_of(tmp_path) == {2: "last"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected a run or `features`, and not both"),
        ({"run": "a", "features": "b"}, "expected a run or `features`, and not both"),
        ({"features": "b"}, "expected `output` to be the folder to write, but got none"),
        ({"run": "a", "labels": "b"}, "only with `features`"),
        ({"run": "a", "quantile": 2.0}, r"expected `quantile` to be in \[0, 1\], but got 2.0"),
        ({"run": "a", "anchors": 0}, "expected `anchors` to be at least 1, but got 0"),
    ],
)
def test_settings_name_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnalyzeConfig(**settings)


def test_nothing_is_written_where_a_file_is_not_what_it_should_be(arrays: Arrays, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = tmp_path / "text.npy"
    text.write_text("no array", encoding="utf-8")
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.save(tmp_path / "short.npy", np.arange(5))
    for features, labels, message in [
        (text, arrays["labels"], r"expected .*text.npy \(`features`\) to be a .npy file of numbers"),
        (tmp_path / "flat.npy", None, r"floats \[N, D\] or \[epochs, N, D\], but got float64 of shape \[3\]"),
        (
            arrays["features"],
            tmp_path / "short.npy",
            r"expected `labels` to be integers \[90\], but got int64 of shape \[5\]",
        ),
        (arrays["features"], tmp_path / "flat.npy", r"expected `labels` to be integers \[90\], but got float64"),
    ]:
        config = AnalyzeConfig(features=str(features), labels=labels and str(labels), output=str(out))
        with pytest.raises(ValueError, match=message):
            analyze(config)
    with pytest.raises(FileNotFoundError, match="expected a run folder, with a config.yaml in it"):
        analyze(AnalyzeConfig(run=str(tmp_path)))
    assert not out.exists()
