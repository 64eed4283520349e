"""The pictures of an analysis: colours, legends, captions and axes."""

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from hex_ssl.train.analysis import figures, plots, to_plane
from hex_ssl.train.analysis.figures import CURVES, draw_nearest, draw_planes
from hex_ssl.train.data import dataset_card
from hex_ssl.train.evaluate.features import Features


def scattered(labels: int, title: str = "all", by: str = "class") -> dict[str, Any]:
    """A plane with a point for each label."""
    points = np.random.default_rng(0).uniform(-1, 1, (2, labels))
    plane = {"title": title, "by": by, "method": "pca", "x": points[0].tolist(), "y": points[1].tolist()}
    names = {str(label): f"kind-{label}." for label in range(labels)}
    return {**plane, "caption": "first", "labels": list(range(labels)), "names": names}


@pytest.mark.parametrize(("labels", "legends"), [(10, 1), (12, 1), (100, 1), (101, 0)])
def test_labels_have_one_legend_beside_their_row(labels: int, legends: int, tmp_path: Path) -> None:
    few = scattered(2, "few") | {"names": {"0": "low", "1": "high"}}
    planes = [{**each, "caption": moment} for each in (scattered(labels), few) for moment in ("first", "last")]
    _, svg = draw_planes(planes, "plane", "All", tmp_path)
    text = svg.read_text(encoding="utf-8")
    assert {text.count(f">kind-{label}.<") for label in range(labels)} == {legends}
    assert text.count(">low<") == text.count(">high<") == 1


def test_superclasses_look_alike_in_each_picture_and_differ_from_each_other() -> None:
    looks = [figures.label_style(number) for number in range(70)]
    assert len(set(looks)) == 70
    assert len({colour for colour, _ in looks[:20]}) == 10


def test_colours_are_told_apart_by_colour_blind_people() -> None:
    def differences(colours: Sequence[str]) -> float:
        rgb = np.array([[int(each[at : at + 2], 16) / 255 for at in (1, 3, 5)] for each in colours])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = [lab(np.clip(linear @ np.array(eye).T, 0, 1)) for eye in EYES]
        pairs = np.triu_indices(len(colours), 1)
        return min(float(np.linalg.norm(each[pairs[0]] - each[pairs[1]], axis=-1).min()) for each in seen)

    assert differences(figures.COLOURS) > 15
    assert differences(list(figures.GROUP_COLOURS.values())) > 25
    assert differences(["#3b6fb6", "#d1603d", "#2f9e77", "#8a63b0", "#c29a2b"]) < 15  # a usual choice


def lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear sRGB: 1 is about the smallest difference that is seen."""
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.0888])
    found = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(found, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


EYES = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
)
"""Linear sRGB as seen without a defect, and with protanopia, deuteranopia and tritanopia (Machado et al. 2009)."""


def test_every_axis_has_a_name_and_legends_cover_nothing(
    analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = json.loads((analysed / "analysis.json").read_text(encoding="utf-8"))
    drawings: list[Callable[[], object]] = [
        *(partial(figures.draw_curves, name, result["records"], tmp_path) for name in CURVES),
        lambda: figures.draw_histograms(result["histograms"], tmp_path),
        lambda: draw_planes(result["planes"], "plane", "All", tmp_path),
    ]
    for draw in drawings:
        panels, boxes = drawn_boxes(monkeypatch, draw)
        assert panels
        for panel in panels:
            assert panel.get_xlabel()
            assert panel.get_ylabel()
            assert panel.get_legend() is None
        (figure,) = {panel.get_figure(root=True) for panel in panels}
        legends = [legend for part in (figure, *figure.subfigs) for legend in part.legends]
        assert_apart_and_within([*(each.get_window_extent() for each in legends), *boxes])


def test_plots_of_training_name_seeds_and_cover_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    names = ("epoch", "loss", "threshold", "hierarchical_negatives", "knn_accuracy")
    runs: list[list[Any]] = [[dict.fromkeys(names, 0.1 * each + seed) for each in range(3)] for seed in range(2)]
    features = Features(torch.from_numpy(np.random.default_rng(0).normal(size=(40, 8))), torch.arange(40) % 4)
    monkeypatch.setattr(plots, "to_plane", partial(to_plane, method="pca"))
    plots.plot_training(runs, tmp_path / "a.png", "A title that is as long as titles are", ["seed 3", "seed 5"])
    plots.plot_accuracy({"SimCLR": runs, "HEX": runs}, tmp_path / "b.png", "Mean and deviation over the seeds")
    plots.plot_embedding(features, tmp_path / "c.png", "Images")
    told = []
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        told.append([each.get_text() for each in legend.get_texts()])
        boxes = [each.get_window_extent() for each in (legend, *figure.texts, *figure.axes)]
        assert_apart_and_within([*boxes, figure.bbox])
        assert all(panel.get_ylabel() for panel in figure.axes)
        assert figure.axes[-1].get_xlabel()
    assert told == [["seed 3", "seed 5"], ["SimCLR", "HEX"], ["0", "1", "2", "3"]]


def test_the_band_of_accuracies_is_the_deviation_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    values = [0.5, 0.6, 0.4]
    runs: list[list[Any]] = [[{"epoch": epoch, "knn_accuracy": each} for epoch in (0, 1)] for each in values]
    plots.plot_accuracy({"three": runs, "one": runs[:1]}, tmp_path / "a.png")
    three, one = ([*band.get_paths()[0].vertices[:, 1]] for band in drawn[0].axes[0].collections)
    deviation = 100 * statistics.stdev(values)
    assert min(three) == pytest.approx(50 - deviation)
    assert max(three) == pytest.approx(50 + deviation)
    assert min(one) == max(one) == 50


def test_histograms_show_the_range_that_has_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.zeros(200, int)
    counts[150:160] = 1  # cosines from 0.5 to 0.6
    each = {"space": "features", "epoch": 0, "threshold": 0.62, "class": counts, "superclass": counts, "other": counts}
    (panel,), _ = drawn_boxes(monkeypatch, lambda: figures.draw_histograms([each], tmp_path))
    low, high = panel.get_xlim()
    assert 0.48 < low < 0.5
    assert 0.62 < high < 0.64


def drawn_boxes(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], object]) -> tuple[list[Axes], list[Bbox]]:
    """The panels of a picture; where they and their captions stand, and last the page."""
    drawn: list[Figure] = []

    class Canvas(FigureCanvasAgg):
        def __init__(self, figure: Figure) -> None:
            drawn.append(figure)
            super().__init__(figure)

    monkeypatch.setattr(figures, "FigureCanvasAgg", Canvas)
    draw()
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    boxes = [box for panel in figure.axes for box in (panel.title.get_window_extent(), panel.get_window_extent())]
    return figure.axes, [*boxes, figure.bbox]


def assert_apart_and_within(boxes: list[Bbox]) -> None:
    *parts, page = boxes
    assert all(page.x0 <= box.x0 < box.x1 <= page.x1 and page.y0 <= box.y0 < box.y1 <= page.y1 for box in parts)
    assert [pair for pair in itertools.combinations(parts, 2) if pair[0].overlaps(pair[1])] == []


def test_captions_of_figure_15_stand_apart_and_within_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ("household_electrical_devices", "large_man-made_outdoor_things", "a" * 40, "one two three four five six")
    names = [*long, *dataset_card("cifar100").superclass_names]
    pictures = [[np.zeros((32, 32, 3), np.uint8)] * 6] * 4
    panels, boxes = drawn_boxes(
        monkeypatch, lambda: draw_nearest(pictures, np.array(names).reshape(4, 6).tolist(), tmp_path)
    )
    assert_apart_and_within(boxes)
    shown = [panel.get_title().replace("\n", " ") for panel in panels]
    assert {"household electrical devices", "large man-made outdoor things"} <= set(shown)


def test_titles_of_planes_stand_apart_and_within_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: dict[str, Any] = {"x": [0.0, 1.0], "y": [0.0, 1.0], "labels": [0, 0], "names": {"0": "bicycle"}}
    planes = [
        {
            **points,
            "by": "class",
            "method": "umap",
            "title": "within large_omnivores_and_herbivores",
            "caption": f"paper-barlow-twins-hex-seed-{number}",
        }
        for number in range(2)
    ]
    _, boxes = drawn_boxes(monkeypatch, lambda: draw_planes(planes, "plane", "Two runs", tmp_path))
    assert_apart_and_within(boxes)
