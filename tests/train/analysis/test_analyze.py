"""The analysis of arrays and of a run's checkpoints: tables, figures, errors."""

import csv
import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from hex_ssl.statistics import GROUPS, similarity_statistics
from hex_ssl.train import progress
from hex_ssl.train.analysis import AnalyzeConfig, analyze, effective_rank, run, to_plane
from hex_ssl.train.analysis.analyze import TABLES, summarize
from hex_ssl.train.analysis.figures import CURVES, FIGURES
from hex_ssl.train.analysis.measures import COLUMNS, knn_within
from hex_ssl.train.analysis.run import checkpoints_of, subject_from_run
from hex_ssl.train.cli import main
from hex_ssl.train.evaluate.features import Features, extract_features
from hex_ssl.train.pretrain import load_method
from hex_ssl.train.progress import ProgressLines
from tests.train.analysis.conftest import CLASSES, Arrays, save_arrays


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_of_arrays_equal_the_functions(arrays: Arrays, tmp_path: Path) -> None:
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
        for group in GROUPS:
            assert float(line[f"above_{group}"]) == found.mean_above()[group]
            assert float(line[f"{group}_similarity"]) == found.mean()[group]
        assert float(line["knn_accuracy"]) == knn_within(features[epoch], labels)
        assert float(line["knn_superclass_accuracy"]) == knn_within(features[epoch], labels // 2)
        assert float(line["gap"]) == pytest.approx(found.mean()["superclass"] - found.mean()["other"])
        assert float(line["effective_rank"]) == effective_rank(features[epoch])
        other = [int(each["other"]) for each in histograms if each["epoch"] == str(epoch)]
        assert other == found.histogram[2].tolist()
    ranks = table(folder / "ranks.csv")
    assert len(ranks) == 3 * 3  # epochs, superclasses
    for column, of in (("local_rank", "local"), ("overall_rank", "overall"), ("rank_ratio", "ratio")):
        assert float(lines[0][column]) == pytest.approx(np.mean([float(each[of]) for each in ranks[:3]]))
    assert float(lines[0]["knn_accuracy"]) < float(lines[2]["knn_accuracy"])
    sets = {line["set"] for line in table(folder / "plane.csv")}
    assert "all images" in sets
    assert any(each.startswith("within") for each in sets)
    assert len(table(folder / "nearest.csv")) == 7 * 5
    assert "knn_superclass_accuracy" in summarize(folder)


def test_figure_13_compares_superclass_negatives_with_the_others(arrays: Arrays, analysed: Path) -> None:
    labels = np.arange(90) % CLASSES
    same_class = labels[:, None] == labels
    same_superclass = labels[:, None] // 2 == labels // 2
    lines = table(analysed / "similarity.csv")
    assert len(lines) == 3
    for features, line in zip(np.load(arrays["features"]).astype(np.float64), lines, strict=True):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        near, other = ((unit @ unit.T)[mask].mean() for mask in (same_superclass & ~same_class, ~same_superclass))
        assert float(line["superclass_similarity"]) == pytest.approx(near, rel=1e-5)
        assert float(line["ratio"]) == pytest.approx(near / other, rel=1e-5)


def test_each_figure_of_the_paper_draws_its_columns() -> None:
    for column, about in COLUMNS.items():
        for number in re.findall(r"\(Figure (\d+)\)", about):
            (name,) = [each for each in CURVES if each.startswith(f"figure-{number}-")]
            assert column in [curve for curve, _ in CURVES[name][2]]


def test_each_figure_is_a_png_and_an_svg(analysed: Path) -> None:
    drawn = {path.stem for path in analysed.glob("*.png")}
    assert drawn == {path.stem for path in analysed.glob("*.svg")} == {*CURVES, "histograms", "figure-10-plane"}
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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("images", "shown"), [(5, 0), (6, 5)])
def test_nearest_images_need_six(images: int, shown: int, tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(images, 4)).astype(np.float32)
    np.save(tmp_path / "z.npy", features)
    settings = AnalyzeConfig(features=str(tmp_path / "z.npy"), output=str(tmp_path / "out"), plane="none", anchors=2)
    folder = analyze(settings)
    nearest = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))["nearest"]
    assert [len(line["nearest"]) for line in nearest] == ([shown] * 2 if shown else [])


def test_other_files_stay_and_old_figures_are_removed(arrays: Arrays, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    foreign = {"holiday.png": b"sea", "grades.csv": b"1,2", "old.svg": b"<svg/>", "figure-10-plane.txt": b"notes"}
    stale = {"plane.csv": b"x", "figure-10-plane.png": b"x", "figure-14-beside.svg": b"x", "similarity.csv": b"x"}
    for name, content in {**foreign, **stale}.items():
        (out / name).write_bytes(content)
    analyze(AnalyzeConfig(features=str(arrays["features"]), output=str(out), plane="none"))
    left = contents(out)
    assert foreign == {name: content for name, content in left.items() if name in foreign}
    assert left.keys() - foreign.keys() <= {*TABLES, *FIGURES, "analysis.json"}
    assert stale.keys() & left.keys() == {"similarity.csv"}
    assert left["similarity.csv"] != b"x"


@pytest.mark.parametrize("which", ["similarity.csv", "histograms.svg", "analysis.json"])
def test_a_full_disk_changes_no_file(
    which: str, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked: dict[str, Any] = {"features": str(arrays["features"]), "output": str(out), "plane": "none"}
    analyze(AnalyzeConfig(**asked))
    (out / "holiday.png").write_bytes(b"sea")
    before = contents(out)
    put = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == which:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        put(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=f"No space left on device: '{out}'"):
        analyze(AnalyzeConfig(**asked, quantile=0.5))
    assert contents(out) == before


def test_the_analysis_is_moved_into_place_last(arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = []
    put = os.replace

    def watched(source: Path, target: Path) -> None:
        placed.append(Path(target))
        put(source, target)

    monkeypatch.setattr(os, "replace", watched)
    out = analyze(AnalyzeConfig(features=str(arrays["features"]), output=str(tmp_path / "out"), plane="none"))
    assert placed[-1] == out / "analysis.json"
    assert {path.name for path in placed if path.parent == out} == contents(out).keys()


@pytest.fixture
def other_run(trained_run: Path, tmp_path: Path) -> Path:
    """The trained run one epoch before its end, with two checkpoints."""
    other = tmp_path / "earlier"
    shutil.copytree(trained_run, other)
    for name in ("last", "epoch-0002"):
        (other / "checkpoints" / f"{name}.ckpt").unlink()
    assert checkpoints_of(other) == {0: "epoch-0000", 1: "epoch-0001"}
    return other


def test_one_superclass_of_two_runs(
    trained_run: Path, other_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, str]] = []

    def load(folder: str | Path, name: str) -> Any:
        loaded.append((Path(folder).name, name))
        return load_method(folder, name)

    monkeypatch.setattr(run, "load_method", load)
    given: dict[str, Any] = {"run": str(trained_run), "images": 120, "plane": "pca"}
    folder = analyze(
        AnalyzeConfig(**given, beside=str(other_run), superclass="pattern 3", output=str(tmp_path / "out"))
    )
    assert [name for name in loaded if name[0] == "earlier"] == [("earlier", "epoch-0001")]
    result = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    own, other = result["planes"][-1], result["beside"]
    assert (own["run"], own["epoch"], other["run"], other["epoch"]) == ("trained", 2, "earlier", 1)
    assert own["title"] == other["title"] == "within pattern 3"
    assert own["rows"] == other["rows"]
    for found, of in ((own, trained_run), (other, other_run)):
        subject = subject_from_run(of, epochs=str(found["epoch"]), images=120)
        (snapshot,) = subject.snapshots()
        assert subject.superclasses is not None
        rows = np.flatnonzero(subject.superclasses == 3)
        assert found["rows"] == rows.tolist()
        expected = to_plane(snapshot.spaces["representation"][rows], "pca")
        np.testing.assert_allclose(np.stack([found["x"], found["y"]], axis=1), expected, atol=1e-3)
    assert own["x"] != other["x"]
    lines = [line for line in table(folder / "plane.csv") if line["run"] == "earlier"]
    assert {(line["set"], line["epoch"], line["superclass"]) for line in lines} == {("within pattern 3", "1", "3")}
    assert [float(line["x"]) for line in lines] == other["x"]
    assert [float(line["y"]) for line in lines] == other["y"]
    picture = (folder / "figure-14-beside.svg").read_text(encoding="utf-8")
    assert "within pattern 3, trained" in picture
    assert "within pattern 3, earlier" in picture


def test_a_superclass_is_known_by_its_number_too(arrays: Arrays, tmp_path: Path) -> None:
    paths = {name: str(path) for name, path in arrays.items()}
    options = [f"--{name}={path}" for name, path in paths.items()]
    main(["analyze", *options, "--output", str(tmp_path / "out"), "--plane", "pca", "--superclass", "2"])
    lines = table(tmp_path / "out" / "plane.csv")
    assert {line["superclass"] for line in lines if line["set"] == "within 2"} == {"2"}
    assert {line["set"] for line in lines} == {"all images", "within 2"}


@pytest.mark.parametrize(
    ("superclass", "message"),
    [
        ("bird", "expected `superclass` to be one of 0, 1, 2, 7, or its number, but got 'bird'"),
        ("7", "expected `superclass` to have at least 3 images, but '7' has 2"),
    ],
)
def test_a_superclass_that_cannot_be_drawn_is_named(
    superclass: str, message: str, arrays: Arrays, tmp_path: Path
) -> None:
    np.save(tmp_path / "labels.npy", np.where(np.arange(90) < 2, CLASSES, np.arange(90) % CLASSES))
    np.save(tmp_path / "above.npy", [0, 0, 1, 1, 2, 2, 7])
    given = {"features": str(arrays["features"]), "labels": str(tmp_path / "labels.npy"), "superclass": superclass}
    given |= {"output": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=message):
        analyze(AnalyzeConfig(**given, superclasses=str(tmp_path / "above.npy")))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=f"expected `superclass` only if images have superclasses, but got '{superclass}'"
    ):
        analyze(AnalyzeConfig(**given))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_sets_of_many_superclasses_at_the_first_and_the_last_epoch(tmp_path: Path) -> None:
    pytest.importorskip("umap", reason="umap-learn of the extra `train` is not installed")
    arrays = save_arrays(tmp_path, rows=96, superclasses=8)
    paths: dict[str, Any] = {name: str(path) for name, path in arrays.items()}
    folder = analyze(AnalyzeConfig(**paths, output=str(tmp_path / "out"), plane="umap"))
    planes = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))["planes"]
    within = planes[-1]["title"]
    titles = ["all images", "5 superclasses", within]
    assert [(each["title"], each["epoch"]) for each in planes] == [
        (title, epoch) for title in titles for epoch in (0, 2)
    ]
    superclasses = np.arange(96) % 16 // 2
    for plane, images, groups in zip(planes, [96, 96, 60, 60, 12, 12], [8, 8, 5, 5, 1, 1], strict=True):
        assert len(plane["rows"]) == len(set(plane["rows"])) == images
        assert plane["superclass"] == superclasses[plane["rows"]].tolist()
        assert len(set(plane["superclass"])) == groups
        assert plane["method"] == "umap"
    assert [plane["by"] for plane in planes] == ["superclass"] * 4 + ["class"] * 2
    assert planes[-1]["labels"] == planes[-1]["class"] == (np.array(planes[-1]["rows"]) % 16).tolist()
    for first, last in zip(planes[::2], planes[1::2], strict=True):
        assert first["rows"] == last["rows"]
        assert first["x"] != last["x"]
    features = np.load(arrays["features"])
    for plane in planes[-2:]:
        expected = to_plane(features[plane["epoch"]][plane["rows"]], "umap")
        np.testing.assert_allclose(np.stack([plane["x"], plane["y"]], axis=1), expected, atol=1e-4)
    assert len(table(folder / "plane.csv")) == 2 * (96 + 60 + 12)


def test_an_image_without_a_direction_is_named(arrays: Arrays, tmp_path: Path) -> None:
    features = np.load(arrays["features"])
    features[1, 17] = 0.0
    start = 'expected the features of each image to be finite and not all zero, but in the space "features" of z'
    for value, bad, end in [
        (0.0, [17], "row 17 is all zero$"),
        (0.0, [40, 17], "row 17 is all zero, and 1 more rows are wrong too$"),
        (np.nan, [5], "row 5 is not finite, and 1 more rows are wrong too$"),
    ]:
        changed = features.copy()
        changed[1, bad] = value
        np.save(tmp_path / "z.npy", changed)
        with pytest.raises(ValueError, match=f"{start} at epoch 1 {end}"):
            analyze(AnalyzeConfig(features=str(tmp_path / "z.npy"), output=str(tmp_path / "out"), plane="none"))
    np.save(tmp_path / "z.npy", features[1])
    with pytest.raises(ValueError, match=f"{start} row 17 is all zero"):
        analyze(AnalyzeConfig(features=str(tmp_path / "z.npy"), output=str(tmp_path / "out"), plane="none"))
    assert not (tmp_path / "out").exists()


def test_a_single_checkpoint_is_explained(other_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = "so there are no curves; `run.keep_every` keeps more checkpoints\n"
    (other_run / "checkpoints" / "epoch-0000.ckpt").unlink()
    main(["analyze", str(other_run), "--plane", "none", "--images", "60", "--output", str(tmp_path)])
    assert said in capsys.readouterr().out
    result = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    several = {"records": [{**record, "epoch": epoch} for epoch in (0, 1) for record in result["records"]]}
    for other in (
        several,
        {"config": {**result["config"], "epochs": "1"}},
        {"config": {**result["config"], "run": None}},
    ):
        (tmp_path / "analysis.json").write_text(json.dumps(result | other), encoding="utf-8")
        assert "keep_every" not in summarize(tmp_path)


def test_a_run_is_analysed_by_its_checkpoints(trained_run: Path) -> None:
    folder = analyze(AnalyzeConfig(run=str(trained_run), plane="pca", images=120, anchors=2))
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
    assert result["beside"] is None
    assert not (folder / "figure-14-beside.png").exists()
    for name in ("figure-15-nearest", "figure-10-plane"):
        assert (folder / f"{name}.png").is_file()


def test_the_command_shows_its_progress(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "ProgressLines", lambda: ProgressLines(seconds=0.0))
    main(["analyze", str(trained_run), "--plane", "none", "--images", "60", "--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["representations: 0 of 1"] * 3  # one of each checkpoint
    assert lines[-1] == f"tables and figures: {tmp_path}"


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


def test_features_come_from_workers_and_draw_nothing(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def extract(*arguments: Any) -> Features:
        given.append(arguments[3])
        before = torch.get_rng_state()
        found = extract_features(*arguments)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    monkeypatch.setattr(run, "extract_features", extract)
    spaces = []
    for num_workers in (None, 0, 1):
        subject = subject_from_run(trained_run, epochs="last", images=30, num_workers=num_workers)
        spaces += [snapshot.spaces for snapshot in subject.snapshots()]
    assert given == [0, 0, 1]
    for name, features in spaces[0].items():
        for other in spaces[1:]:
            np.testing.assert_array_equal(other[name], features)


def test_representations_that_are_not_finite_are_named(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        method = load_method(*arguments)
        torch.nn.init.constant_(next(method.backbone.parameters()), torch.nan)
        return method

    monkeypatch.setattr(run, "load_method", broken)
    subject = subject_from_run(trained_run, epochs="last", images=30)
    with pytest.raises(ValueError, match="network's representations to be finite, but that of image 0 has NaN"):
        next(subject.snapshots())


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
        ({"run": "a", "num_workers": -1}, "expected `num_workers` to be at least 0, but got -1"),
    ],
)
def test_invalid_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnalyzeConfig(**settings)


def test_nothing_is_written_if_a_file_is_invalid(arrays: Arrays, tmp_path: Path) -> None:
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
