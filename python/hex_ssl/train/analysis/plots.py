"""Plots of pretraining runs. They are drawn directly to files, without a display and pyplot's global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from hex_ssl.train.callbacks.metrics import Row
from hex_ssl.train.evaluate.features import Features

RESOLUTION = 150
"""Dots per inch."""

_PANELS = {
    "loss": "loss",
    "threshold": "threshold (cosine)",
    "hierarchical_negatives": "mean number of\nhierarchical negatives |H|",
}


def plot_training(runs: Sequence[Sequence[Row]], path: Path, title: str = "") -> None:
    """Plots loss, threshold and mean |H| over the epochs.

    Args:
        runs: The metrics of each run, for example one run per seed.
        path: The PNG file.
        title: Title of the plot.
    """
    figure = _figure(6.0, 7.0, title)
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for panel, (name, label) in zip(panels, _PANELS.items(), strict=True):
        for number, rows in enumerate(runs):
            epochs, values = _series(rows, name)
            panel.plot(epochs, values, marker=".", label=f"run {number}")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("epoch")
    if len(runs) > 1:
        panels[0].legend()
    _save(figure, path)


def plot_accuracy(runs: Mapping[str, Sequence[Sequence[Row]]], path: Path, title: str = "") -> None:
    """Plots k-NN accuracy over the epochs: the mean over each group's runs and a band of one standard deviation.

    The standard deviation is the population's (divided by the number of runs).

    Args:
        runs: For each label, the metrics of its runs, evaluated at the same epochs.
        path: The PNG file.
        title: Title of the plot.
    """
    figure = _figure(6.0, 4.0, title)
    axes = figure.subplots()
    for label, group in runs.items():
        series = [_series(rows, "knn_accuracy") for rows in group]
        epochs, values = series[0][0], 100 * np.array([accuracies for _, accuracies in series])
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        axes.plot(epochs, mean, marker=".", label=label)
        axes.fill_between(epochs, mean - deviation, mean + deviation, alpha=0.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel("k-NN accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _save(figure, path)


def plot_embedding(features: Features, path: Path, title: str = "", seed: int = 0) -> None:
    """Plots representations in two dimensions, projected by t-SNE and coloured by class.

    Args:
        features: Representations [N, F] and labels, with N above 30, t-SNE's perplexity.
        path: The PNG file.
        title: Title of the plot.
        seed: Seed of t-SNE.
    """
    h = features.h.double().cpu().numpy()
    labels = features.labels.cpu().numpy()
    unit = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), np.finfo(h.dtype).tiny)
    plane = TSNE(n_components=2, init="pca", random_state=seed).fit_transform(unit)
    figure = _figure(6.0, 6.0, title)
    axes = figure.subplots()
    for label in np.unique(labels):
        chosen = labels == label
        axes.scatter(plane[chosen, 0], plane[chosen, 1], s=12, color=f"C{label % 10}", label=str(label))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(title="class", fontsize="small", markerscale=1.5)
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
