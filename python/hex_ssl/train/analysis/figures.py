"""Draws the paper's figures for an analysis as PNG and SVG, directly to files, without pyplot's global state."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hex_ssl.statistics import GROUPS
from hex_ssl.train.analysis.measures import Record
from hex_ssl.train.whole_file import whole_file

COLOURS = ("#3b6fb6", "#d1603d", "#2f9e77", "#8a63b0", "#c29a2b", "#5f6b7a", "#c45b8a", "#3aa0b5", "#7d8f2f", "#a0522d")
GROUP_COLOURS = dict(zip(GROUPS, ("#d1603d", "#3b6fb6", "#8b95a3"), strict=True))
ENDINGS = (".png", ".svg")
RESOLUTION = 150
"""Dots per inch of the PNG."""
CAPTION_WIDTH, CAPTION_LINES, TITLE_WIDTH = 14, 3, 44
"""Maximum characters and lines of a caption above an image, and maximum characters of a title above a panel."""
LEGEND_ROWS, LEGEND_COLUMNS = 25, 4
"""Maximum rows and columns of the legend beside a row of panels. With more labels there is no legend."""

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "hex_ssl",  # equal figures give equal files
    "svg.fonttype": "none",  # keeps text as text
}

Curve = tuple[str, str]
"""A column of the records, and its name in the legend."""

CURVES: dict[str, tuple[str, str, tuple[Curve, ...]]] = {
    "figure-8-threshold": ("Adaptive threshold", "mean row quantile of the cosines", (("threshold", ""),)),
    "figure-9-above-threshold": (
        "Images above the threshold",
        "mean number",
        (("above", "all"), *((f"above_{group}", f"{group} negatives") for group in GROUPS)),
    ),
    "figure-11-knn": (
        "k-NN within the set, leave-one-out",
        "accuracy",
        (("knn_accuracy", "class"), ("knn_superclass_accuracy", "superclass")),
    ),
    "figure-12-similarity": (
        "Mean cosine with negatives",
        "cosine",
        tuple((f"{group}_similarity", f"{group} negatives") for group in GROUPS),
    ),
    "figure-13-ratio": ("Superclass over other negatives", "ratio of mean cosines", (("ratio", ""),)),
    "similarity-gap": ("Superclass less other negatives", "difference of mean cosines", (("gap", ""),)),
    "effective-rank": ("Effective rank (RankMe)", "dimensions", (("effective_rank", ""),)),
    "collapse": (
        "Local against global rank",
        "effective rank, centred",
        (("local_rank", "within a group"), ("overall_rank", "as many of all")),
    ),
}
"""Title, axis label and curves of each figure. A figure has one panel for each space."""

HISTOGRAMS, PLANE, BESIDE, NEAREST = "histograms", "figure-10-plane", "figure-14-beside", "figure-15-nearest"
FIGURES = tuple(f"{name}{ending}" for name in (*CURVES, HISTOGRAMS, PLANE, BESIDE, NEAREST) for ending in ENDINGS)
"""The files of all possible figures."""


def draw_curves(name: str, records: Sequence[Record], folder: Path) -> list[Path]:
    """Draws one of `CURVES` over the epochs, with a panel for each space. Draws nothing if there are no values.

    Args:
        name: A key of `CURVES`.
        records: The lines of the table.
        folder: Folder of the figures.

    Returns:
        The files.
    """
    title, label, curves = CURVES[name]
    spaces = list(dict.fromkeys(str(record["space"]) for record in records))
    present = [(column, legend) for column, legend in curves if any(record[column] is not None for record in records)]
    if not present:
        return []

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(spaces), squeeze=False)[0]
        for panel, space in zip(panels, spaces, strict=True):
            rows = [record for record in records if record["space"] == space]
            for number, (column, legend) in enumerate(present):
                epochs = [row["epoch"] if row["epoch"] is not None else 0 for row in rows]
                values = [np.nan if row[column] is None else row[column] for row in rows]
                panel.plot(epochs, values, marker="o", markersize=3, color=_colour(column, number), label=legend)
            panel.set_title(space)
            panel.set_xlabel("epoch")
            panel.xaxis.get_major_locator().set_params(integer=True)
            if len(present) > 1:
                panel.legend()
        panels[0].set_ylabel(label)

    return save_figure(draw, (4.2 * len(spaces), 3.2), title, folder / name)


def draw_histograms(histograms: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws the cosines of all pairs by group: a row for each space, with the first epoch beside the last."""
    spaces = list(dict.fromkeys(each["space"] for each in histograms))
    moments = [[each for each in histograms if each["space"] == space] for space in spaces]
    columns = 1 if all(len(each) == 1 for each in moments) else 2

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(spaces), columns, squeeze=False)
        for row, found in zip(panels, moments, strict=True):
            for panel, each in zip(row, (found[0], found[-1]), strict=False):
                _draw_histogram(panel, each)

    title = "Cosines of all pairs, each group to 1"
    return save_figure(draw, (4.2 * columns, 2.8 * len(spaces)), title, folder / HISTOGRAMS)


def _draw_histogram(panel: Axes, histogram: Mapping[str, Any]) -> None:
    for group in GROUPS:
        counts = np.asarray(histogram[group], float)
        if counts.sum():
            edges = np.linspace(-1.0, 1.0, len(counts) + 1)
            panel.stairs(counts / counts.sum(), edges, color=GROUP_COLOURS[group], fill=True, alpha=0.35, label=group)
    panel.axvline(histogram["threshold"], color="#333333", linestyle=":", linewidth=1, label="threshold")
    panel.set_title(f"{histogram['space']}{_at(histogram['epoch'])}")
    panel.set_xlabel("cosine")
    panel.legend()


def draw_planes(planes: Sequence[Mapping[str, Any]], name: str, title: str, folder: Path) -> list[Path]:
    """Draws scatter plots, with a row for each set of images and a column for each epoch (or run).

    Up to 10 labels have a legend in each panel. More labels have one beside their row.

    Args:
        planes: Each has `title`, `caption`, `x`, `y`, `labels` (numbers) and `names` (of the labels, by number).
        name: Name of the figure.
        title: Title of the figure.
        folder: Folder of the figures.

    Returns:
        The files.
    """
    titles = list(dict.fromkeys(each["title"] for each in planes))
    rows = [[each for each in planes if each["title"] == title] for title in titles]
    columns = max(len(row) for row in rows)
    beside = [_legend_columns(row) for row in rows]

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, row, legend_columns in zip(parts, rows, beside, strict=True):
            panels = part.subplots(1, columns, squeeze=False)[0]
            for panel, plane in zip(panels, row, strict=False):
                _draw_plane(panel, plane)
            for panel in panels[len(row) :]:
                panel.remove()
            if legend_columns:
                named = panels[0].get_legend_handles_labels()
                part.legend(*named, loc="outside right center", ncols=legend_columns, fontsize=6, markerscale=2)

    return save_figure(draw, (4.0 * columns + 2.0 * max(beside), 3.9 * len(rows)), title, folder / name)


def _legend_columns(row: Sequence[Mapping[str, Any]]) -> int:
    """Number of columns of the legend beside a row. 0 if the panels have their own legends, or there is none."""
    labels = {label for plane in row for label in plane["labels"]}
    columns = math.ceil(len(labels) / LEGEND_ROWS)
    return columns if len(labels) > len(COLOURS) and columns <= LEGEND_COLUMNS else 0


def _draw_plane(panel: Axes, plane: Mapping[str, Any]) -> None:
    x, y, labels = (np.asarray(plane[key]) for key in ("x", "y", "labels"))
    known = np.unique(labels)
    shades = mpl.colormaps["turbo"](np.linspace(0.05, 0.95, max(len(known), 2)))
    for number, label in enumerate(known):
        chosen = labels == label
        colour = COLOURS[number] if len(known) <= len(COLOURS) else shades[number]
        name = plane["names"].get(str(label), str(label))
        panel.scatter(x[chosen], y[chosen], s=5, color=colour, alpha=0.6, linewidths=0, label=name)
    panel.set_title(textwrap.fill(f"{plane['title']}, {plane['caption']}", TITLE_WIDTH), fontsize=9)
    panel.set(xticks=[], yticks=[], aspect="equal", xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    panel.grid(visible=False)
    panel.spines[:].set_color("#dddddd")
    panel.spines[:].set_visible(True)
    if len(known) <= len(COLOURS):
        panel.legend(fontsize=6, markerscale=2, loc="best")


def draw_nearest(
    pictures: Sequence[Sequence[NDArray[np.uint8]]], captions: Sequence[Sequence[str]], folder: Path
) -> list[Path]:
    """Draws anchors in the first column, followed by the most similar images of their batches (Figure 15)."""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(pictures), len(pictures[0]), squeeze=False)
        for row, images, names in zip(grid, pictures, captions, strict=True):
            for column, (panel, image, name) in enumerate(zip(row, images, names, strict=True)):
                panel.imshow(image, interpolation="nearest")
                panel.set_axis_off()
                panel.set_title(_wrapped(name), fontsize=6, fontweight="bold" if column == 0 else "normal")

    size = (1.2 * len(pictures[0]), 1.5 * len(pictures))
    return save_figure(draw, size, "Anchor, and the nearest of its batch", folder / NEAREST)


def _wrapped(name: str) -> str:
    """Wraps a name over the lines of a caption. A name that is too long ends in dots."""
    return textwrap.fill(name.replace("_", " "), CAPTION_WIDTH, max_lines=CAPTION_LINES, placeholder=" ...")


def _at(epoch: float | None) -> str:
    return "" if epoch is None else f", epoch {epoch}"


def _colour(column: str, number: int) -> str:
    group = column.removesuffix("_similarity").removeprefix("above_")
    return "#22262b" if column == "above" else GROUP_COLOURS.get(group, COLOURS[number])


def save_figure(draw: Callable[[Figure], None], size: tuple[float, float], title: str, stem: Path) -> list[Path]:
    """Saves a figure as PNG and as SVG.

    Args:
        draw: Draws into the figure.
        size: Width and height in inches.
        title: Title of the figure.
        stem: Path of the files without their extensions.

    Returns:
        The files.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10)
        draw(figure)
        png, svg = (stem.with_name(stem.name + ending) for ending in ENDINGS)
        with whole_file(png) as file:
            FigureCanvasAgg(figure).print_figure(file, format="png", dpi=RESOLUTION)
        with whole_file(svg) as file:
            FigureCanvasSVG(figure).print_figure(file, format="svg", metadata={"Date": None})
    return [png, svg]
