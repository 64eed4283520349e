"""Pictures of the kept results: how far each row of a table is from its baseline."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hex_ssl.train.reproduce.command import finished, prepare
from hex_ssl.train.reproduce.experiment import METRICS, Group
from hex_ssl.train.reproduce.plan import Cell, Plan
from hex_ssl.train.reproduce.settings import ReproduceConfig
from hex_ssl.train.reproduce.table import Records, figures_of

EXPERIMENTS = ("cifar100", "steps", "table7", "table8", "table10")
"""The experiments of which `docs/results.md` has tables and no other picture."""

COLOUR = "#0072b2"


def pictures(kept: Path) -> Iterator[tuple[str, tuple[float, float], Callable[[Figure], None]]]:
    """The picture of each table.

    Args:
        kept: The finished runs.

    Yields:
        Its name, its size in inches, and a function that fills a figure.
    """
    for experiment in EXPERIMENTS:
        plan = prepare(ReproduceConfig(experiment, "small", results=str(kept), list=True))
        records = finished(plan, kept)
        for group, dataset in dict.fromkeys((cell.group, cell.dataset) for cell in plan.cells):
            names = [cell.row for cell in plan.cells if (cell.group, cell.dataset) == (group, dataset)]
            rows = [name for name in names if plan.experiment.groups[group].rows[name].baseline != name]

            def draw(figure: Figure, plan: Plan = plan, records: Records = records, group: str = group,
                     dataset: str = dataset, rows: list[str] = rows) -> None:  # fmt: skip
                draw_differences(figure, plan, records, plan.experiment.groups[group], dataset, rows)

            yield f"{experiment}-{group}", (8.0, 1.1 + 0.28 * len(rows)), draw


def draw_differences(figure: Figure, plan: Plan, records: Records, group: Group, dataset: str, rows: list[str]) -> None:
    """A panel for each metric: the difference from the baseline at equal seed, of each row."""
    metrics = plan.experiment.metrics
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, name in enumerate(rows):
            own, baseline = (
                figures_of(plan.cells[Cell(group.name, each, dataset)], metric, records)
                for each in (name, group.rows[name].baseline)
            )
            _draw_row(axes, place, [100 * (own[seed] - baseline[seed]) for seed in own if seed in baseline])
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set(title=METRICS[metric], xlabel="difference (points of percent)")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [group.rows[name].title for name in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)


def _draw_row(axes: Axes, place: int, differences: list[float]) -> None:
    """The difference of each seed, their mean, and a bar of one standard error on either side."""
    axes.plot(differences, [place] * len(differences), "o", color="#aaaaaa", markersize=3, markeredgewidth=0)
    if len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
        axes.errorbar(statistics.mean(differences), place, xerr=error, fmt="D", color=COLOUR, markersize=4, capsize=3)
