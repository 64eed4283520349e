"""Plots the accuracies of an experiment over a setting of its runs."""

import statistics
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hex_ssl.train.analysis.figures import COLOURS, MARKERS, save_figure
from hex_ssl.train.reproduce.experiment import METRICS
from hex_ssl.train.reproduce.plan import Plan
from hex_ssl.train.reproduce.table import Records, figures_of


class Point(NamedTuple):
    """The accuracy of one row.

    Attributes:
        setting: The row's value of the setting on the horizontal axis.
        mean: Mean over seeds, in percent.
        deviation: Standard deviation over seeds, in percent. 0 for one seed.
    """

    setting: float
    mean: float
    deviation: float


class Panel(NamedTuple):
    """The panel of one group, dataset and metric.

    Attributes:
        title: Titles of the group and of the dataset.
        metric: Title of the metric.
        lines: The points of each line, sorted by the setting, by the title of the line.
    """

    title: str
    metric: str
    lines: dict[str, list[Point]]


def read_panels(plan: Plan, records: Records) -> list[Panel]:
    """The panels of an experiment's plot. Rows and panels without finished runs are left out.

    Args:
        plan: The plan of the experiment.
        records: The finished runs.
    """
    picture, experiment, scale = plan.experiment.picture, plan.experiment, plan.scale
    if picture is None:
        return []
    configs = {job.key: job.config for job in plan.jobs}
    panels = []
    for group, dataset in dict.fromkeys((cell.group, cell.dataset) for cell in plan.cells):
        title = f"{experiment.groups[group].title}, {scale.datasets[dataset].title}"
        for metric in experiment.metrics:
            lines: dict[str, list[Point]] = {}
            for cell, keys in plan.cells.items():
                values = [100 * value for value in figures_of(keys, metric, records).values()]
                for name, pattern in picture.lines.items():
                    if (cell.group, cell.dataset) == (group, dataset) and fnmatchcase(cell.row, pattern) and values:
                        setting = picture.value(configs[next(iter(keys.values()))])
                        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                        lines.setdefault(name, []).append(Point(setting, statistics.mean(values), deviation))
            if lines:
                panels.append(Panel(title, METRICS[metric], {name: sorted(line) for name, line in lines.items()}))
    return panels


def draw_panel(axes: Axes, panel: Panel, label: str) -> None:
    """Draws the mean of each point and a bar of one standard deviation.

    Args:
        axes: The axes to draw into.
        panel: The panel to draw.
        label: Label of the horizontal axis.
    """
    for number, (name, line) in enumerate(panel.lines.items()):
        settings, means, deviations = zip(*line, strict=True)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.errorbar(settings, means, deviations, marker=marker, markersize=4, capsize=3, color=colour, label=name)
    ticks = sorted({point.setting for line in panel.lines.values() for point in line})
    if ticks[0] > 0:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel=label, ylabel=f"{panel.metric} (%)", title=panel.title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the panel


def draw_picture(plan: Plan, records: Records, stem: Path) -> list[Path]:
    """Draws the plot of an experiment.

    Args:
        plan: The plan of the experiment.
        records: The finished runs.
        stem: Path of the files without their extensions, .png and .svg.

    Returns:
        The files. Empty if the experiment has no plot, or no run is finished.
    """
    picture, panels = plan.experiment.picture, read_panels(plan, records)
    if picture is None or not panels:
        return []

    def draw(figure: Figure) -> None:
        for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            draw_panel(axes, panel, picture.label)

    title = f"{plan.experiment.title}, scale {plan.scale.name}: mean and standard deviation over seeds"
    return save_figure(draw, (6.5, 3.6 * len(panels)), title, stem)
