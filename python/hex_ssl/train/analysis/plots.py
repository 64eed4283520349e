"""Plots of pretraining runs. They are drawn directly to files, without a display and pyplot's global state."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hex_ssl.train.analysis.figures import COLOURS, label_style
from hex_ssl.train.analysis.measures import NEIGHBOURS, TEMPERATURE
from hex_ssl.train.analysis.plane import to_plane
from hex_ssl.train.callbacks.metrics import Row
from hex_ssl.train.evaluate.features import Features

RESOLUTION = 150
"""Dots per inch."""

_PANELS = {
    "loss": "loss",
    "threshold": "threshold (cosine)",
    "hierarchical_negatives": "hierarchical negatives |H|\n(mean number)",
}


def plot_training(
    runs: Sequence[Sequence[Row]], path: Path, title: str = "", names: Sequence[str] | None = None
) -> None:
    """Plots loss, threshold and mean |H| over the epochs.

    Args:
        runs: The metrics of each run, for example one run per seed.
        path: The PNG file.
        title: Title of the plot.
        names: Names of the runs in the legend, such as "seed 0". None for their numbers.
    """
    names = [f"run {number}" for number in range(len(runs))] if names is None else names
    figure = _figure(6.5, 7.0, title)
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for panel, (name, label) in zip(panels, _PANELS.items(), strict=True):
        for number, (rows, run) in enumerate(zip(runs, names, strict=True)):
            panel.plot(*_series(rows, name), marker=".", color=COLOURS[number % len(COLOURS)], label=run)
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("epoch")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    _save(figure, path)


def plot_accuracy(runs: Mapping[str, Sequence[Sequence[Row]]], path: Path, title: str = "") -> None:
    """Plots k-NN accuracy over the epochs: the mean over each group's runs and a band of one standard deviation.

    The standard deviation is the sample's (divided by the number of runs - 1). A single run has no band.

    Args:
        runs: For each label, the metrics of its runs, evaluated at the same epochs.
        path: The PNG file.
        title: Title of the plot.
    """
    figure = _figure(7.5, 4.0, title)
    axes = figure.subplots()
    for colour, (label, group) in zip(itertools.cycle(COLOURS), runs.items(), strict=False):
        series = [_series(rows, "knn_accuracy") for rows in group]
        epochs, values = series[0][0], 100 * np.array([accuracies for _, accuracies in series])
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
        axes.plot(epochs, mean, marker=".", color=colour, label=label)
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"k-NN accuracy (%), k = {NEIGHBOURS}, T = {TEMPERATURE}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    _save(figure, path)


def plot_embedding(features: Features, path: Path, title: str = "", seed: int = 0) -> None:
    """Plots representations in two dimensions, projected by UMAP and coloured by class.

    Args:
        features: Representations [N, F] and labels. N is at least 3, and no row is all zeros.
        path: The PNG file.
        title: Title of the plot.
        seed: Seed of UMAP.

    Raises:
        ValueError: See `to_plane`.
    """
    plane, labels = to_plane(features.h.double().cpu().numpy(), seed=seed), features.labels.cpu().numpy()
    figure = _figure(7.0, 6.0, title)
    axes = figure.subplots()
    for number, label in enumerate(np.unique(labels)):
        chosen = labels == label
        colour, marker = label_style(number)
        axes.scatter(plane[chosen, 0], plane[chosen, 1], s=14, color=colour, marker=marker, label=str(label))
    axes.set(xticks=[], yticks=[], aspect="equal", xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2")
    figure.legend(title="class", loc="outside right center", markerscale=1.5)
    _save(figure, path)


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def _series(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """The epochs in which a metric has a value, and its values."""
    found = [(row["epoch"] or 0, value) for row in rows if (value := row.get(name)) is not None]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_figure(str(path), dpi=RESOLUTION)
