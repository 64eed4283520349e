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
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from hex_ssl.statistics import GROUPS
from hex_ssl.train.analysis.measures import NEIGHBOURS, TEMPERATURE, Record
from hex_ssl.train.whole_file import whole_file

COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"),
    *("#8a1fe8", "#904824", "#9c8cff", "#d8b46c"),
)
"""Colours that colour-blind people tell apart too. The first six are from the palette of Okabe and Ito."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
"""Shapes that tell labels of one colour apart. The page of `hex-ssl report` draws the same ones."""

DASHES = ("-", (0, (3, 2)), (0, (1, 2)), (0, (5, 1.5, 1, 1.5)))
"""Dashes of the curves of one picture, in order. The page has the same ones."""

INK = "#22262b"
GROUP_COLOURS = dict(zip(GROUPS, ("#d55e00", "#0072b2", "#8b95a3"), strict=True))
ENDINGS = (".png", ".svg")
RESOLUTION = 150
"""Dots per inch of the PNG."""
CAPTION_WIDTH, CAPTION_LINES, TITLE_WIDTH = 14, 3, 44
"""Maximum characters and lines of a caption above an image, and maximum characters of a title above a panel."""
LEGEND_ROWS, LEGEND_COLUMNS = 25, 4
"""Maximum rows and columns of the legend beside a row of panels. With more labels there is no legend."""

COLUMN_WIDTH, CHARACTER_WIDTH = 0.35, 0.055
"""Inches that a column of such a legend takes, and each character of its longest name."""

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
    "figure-8-threshold": ("Adaptive threshold", "threshold (cosine)", (("threshold", ""),)),
    "figure-9-above-threshold": (
        "Images above the threshold",
        "mean number of images",
        (("above", "all"), *((f"above_{group}", f"{group} negatives") for group in GROUPS)),
    ),
    "figure-11-knn": (
        f"k-NN within the set, leave-one-out, k = {NEIGHBOURS}, T = {TEMPERATURE}",
        "accuracy (%)",
        (("knn_accuracy", "class"), ("knn_superclass_accuracy", "superclass")),
    ),
    "figure-12-similarity": (
        "Mean cosine with negatives",
        "mean cosine",
        tuple((f"{group}_similarity", f"{group} negatives") for group in GROUPS),
    ),
    "figure-13-ratio": ("Superclass over other negatives", "ratio of mean cosines", (("ratio", ""),)),
    "similarity-gap": ("Superclass less other negatives", "difference of mean cosines", (("gap", ""),)),
    "effective-rank": ("Effective rank (RankMe)", "effective rank (dimensions)", (("effective_rank", ""),)),
    "collapse": (
        "Local against global rank",
        "effective rank, centred (dimensions)",
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
                _draw_curve(panel, rows, column, legend, number)
            panel.set(title=space, xlabel="epoch", ylabel=label)
            panel.xaxis.get_major_locator().set_params(integer=True)
        _legend_beside(figure, panels[0], len(present))

    beside = 1.4 if len(present) > 1 else 0.0
    return save_figure(draw, (4.2 * len(spaces) + beside, 3.2), title, folder / name)


def _draw_curve(panel: Axes, rows: Sequence[Record], column: str, legend: str, number: int) -> None:
    unit = 100.0 if column.endswith("_accuracy") else 1.0
    epochs = [row["epoch"] if row["epoch"] is not None else 0 for row in rows]
    values = [np.nan if (value := row[column]) is None else unit * float(value) for row in rows]
    dash = DASHES[number % len(DASHES)]
    panel.plot(epochs, values, marker="o", markersize=3, color=_colour(column), linestyle=dash, label=legend)


def _legend_beside(figure: Figure | SubFigure, panel: Axes, entries: int, **settings: Any) -> None:
    """Names the curves of all panels beside them, where they cover nothing."""
    if entries > 1:
        figure.legend(*panel.get_legend_handles_labels(), loc="outside right center", **settings)


def draw_histograms(histograms: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws the cosines of all pairs by group: a row for each space, with the first epoch beside the last."""
    spaces = list(dict.fromkeys(each["space"] for each in histograms))
    moments = [[each for each in histograms if each["space"] == space] for space in spaces]
    columns = 1 if all(len(each) == 1 for each in moments) else 2

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(spaces), columns, squeeze=False)
        for row, found in zip(panels, moments, strict=True):
            chosen = (found[0], found[-1])[-columns:]
            for panel, each in zip(row, chosen, strict=True):
                _draw_histogram(panel, each)
                panel.set_xlim(*_range(chosen))
        _legend_beside(figure, panels[0, 0], len(panels[0, 0].get_legend_handles_labels()[1]))

    title = "Cosines of all pairs"
    return save_figure(draw, (4.2 * columns + 1.0, 2.8 * len(spaces)), title, folder / HISTOGRAMS)


def _range(histograms: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The cosines that occur in some of the histograms, or at a threshold; a little more on either side."""
    counts = np.sum([each[group] for each in histograms for group in GROUPS], axis=0)
    used, edges = np.flatnonzero(counts), np.linspace(-1.0, 1.0, len(counts) + 1)
    ends = [*(each["threshold"] for each in histograms), *(edges[[used[0], used[-1] + 1]] if len(used) else ())]
    margin = 0.02 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _draw_histogram(panel: Axes, histogram: Mapping[str, Any]) -> None:
    for group in GROUPS:
        counts = np.asarray(histogram[group], float)
        if counts.sum():
            edges = np.linspace(-1.0, 1.0, len(counts) + 1)
            density = counts / counts.sum() / np.diff(edges)
            panel.stairs(density, edges, color=GROUP_COLOURS[group], fill=True, alpha=0.3)
            panel.stairs(density, edges, color=GROUP_COLOURS[group], label=f"{group} negatives")
    panel.axvline(histogram["threshold"], color=INK, linestyle=":", linewidth=1, label="threshold")
    panel.set_title(f"{histogram['space']}{_at(histogram['epoch'])}")
    panel.set(xlabel="cosine", ylabel="density of the group's pairs")


def draw_planes(planes: Sequence[Mapping[str, Any]], name: str, title: str, folder: Path) -> list[Path]:
    """Draws scatter plots, with a row for each set of images and a column for each epoch (or run).

    Up to 100 labels have a legend beside their row. Superclasses have the same colours and markers in each row.

    Args:
        planes: Each has `title`, `caption`, `method`, `by`, `x`, `y`, `labels` (numbers) and `names` (of the labels, by
            number).
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
    widths = [count * (COLUMN_WIDTH + CHARACTER_WIDTH * _longest(row)) for count, row in zip(beside, rows, strict=True)]

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, row, legend_columns in zip(parts, rows, beside, strict=True):
            panels = part.subplots(1, columns, squeeze=False)[0]
            for panel, plane in zip(panels, row, strict=False):
                _draw_plane(panel, plane)
            for panel in panels[len(row) :]:
                panel.remove()
            if legend_columns:
                _legend_beside(part, panels[0], 2, ncols=legend_columns, fontsize=7, markerscale=2)

    return save_figure(draw, (4.0 * columns + max(widths), 3.9 * len(rows)), title, folder / name)


def _legend_columns(row: Sequence[Mapping[str, Any]]) -> int:
    """Number of columns of the legend beside a row. 0 if there is none."""
    columns = math.ceil(len({label for plane in row for label in plane["labels"]}) / LEGEND_ROWS)
    return columns if columns <= LEGEND_COLUMNS else 0


def _longest(row: Sequence[Mapping[str, Any]]) -> int:
    """Number of characters of the longest name in a row."""
    return max((len(name) for plane in row for name in plane["names"].values()), default=0)


def label_style(number: int) -> tuple[str, str]:
    """The colour and the marker of a label: ten colours, then the same colours with the next marker.

    Args:
        number: The number of a superclass, or the place of a class among those that are shown.
    """
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


def _draw_plane(panel: Axes, plane: Mapping[str, Any]) -> None:
    x, y, labels = (np.asarray(plane[key]) for key in ("x", "y", "labels"))
    for place, label in enumerate(np.unique(labels).tolist()):
        chosen = labels == label
        colour, marker = label_style(label if plane["by"] == "superclass" else place)
        name = plane["names"].get(str(label), str(label))
        panel.scatter(x[chosen], y[chosen], s=7, color=colour, marker=marker, alpha=0.7, linewidths=0, label=name)
    panel.set_title(textwrap.fill(f"{plane['title']}, {plane['caption']}", TITLE_WIDTH), fontsize=9)
    panel.set(xticks=[], yticks=[], aspect="equal", xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    panel.set(xlabel=f"{plane['method'].upper()} 1", ylabel=f"{plane['method'].upper()} 2")
    panel.grid(visible=False)
    panel.spines[:].set_color("#dddddd")
    panel.spines[:].set_visible(True)


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


def _colour(column: str) -> str:
    """The colour of the group that a curve is of; of all images, ink."""
    own = {"knn_accuracy": GROUPS[0], "knn_superclass_accuracy": GROUPS[1], "local_rank": GROUPS[1]}
    group = own.get(column, column.removesuffix("_similarity").removeprefix("above_"))
    return GROUP_COLOURS.get(group, INK)


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
