"""The plot of an experiment: its points against NumPy, and its files."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benches.results_page import KEPT, plan_of
from hex_ssl.train.cli import main
from hex_ssl.train.reproduce.command import finished
from hex_ssl.train.reproduce.experiment import load_experiment
from hex_ssl.train.reproduce.picture import Point, read_panels
from hex_ssl.train.reproduce.plan import make_plan
from hex_ssl.train.reproduce.results import read_results
from hex_ssl.train.reproduce.settings import ReproduceConfig
from tests.train.reproduce.conftest import EXPERIMENT


def test_points_of_figure_7_are_mean_and_deviation_of_the_kept_results() -> None:
    plan = plan_of("figure7")
    (panel,) = read_panels(plan, finished(plan, KEPT))
    assert (panel.title, panel.metric) == ("SimCLR, CIFAR-100 (20,000 training images)", "linear top-1")
    records = read_results(KEPT)
    found: dict[tuple[str, int], list[float]] = {}
    for key in {job.key for job in plan.jobs}:
        record = records[key]
        line = "SimCLR" if record["config"]["loss"]["hex"] == "off" else "SimCLR + HEX"
        point = (line, record["config"]["data"]["batch_size"])
        found.setdefault(point, []).append(100 * record["metrics"]["probe.top1"])
    assert list(panel.lines) == ["SimCLR", "SimCLR + HEX"]
    for line, points in panel.lines.items():
        assert [point.setting for point in points] == [64, 128, 256, 512]
        for point in points:
            values = np.array(found[line, int(point.setting)])
            assert len(values) == 5
            np.testing.assert_allclose([point.mean, point.deviation], [values.mean(), values.std(ddof=1)], rtol=1e-12)


def test_only_finished_runs_are_drawn(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(EXPERIMENT + "picture: {setting: run.seed, label: seed, lines: {A: simclr, B: hex}}\n")
    plan = make_plan(load_experiment(file), ReproduceConfig("two", scale="smoke"))
    assert read_panels(plan, {}) == []
    job = next(job for job in plan.jobs if job.config.loss.hex == "step")
    (panel,) = read_panels(plan, {job.key: {"metrics": {"knn.top1": 0.25}}})
    assert panel.lines == {"B": [Point(0, 25.0, 0.0)]}


def test_kept_results_are_drawn_without_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["reproduce", "figure7", "--results", str(KEPT), "--out", str(tmp_path)])
    png, svg = (tmp_path / f"figure7-small.{ending}" for ending in ("png", "svg"))
    printed = capsys.readouterr().out
    assert all(f"picture: {path}\n" in printed for path in (png, svg))
    with Image.open(png) as image:
        assert min(image.size) > 400
    words = {each.text for each in ElementTree.parse(svg).getroot().iter() if each.tag.endswith("}text")}
    assert {"SimCLR", "SimCLR + HEX", "images per batch", "64", "128", "256", "512"} <= words
