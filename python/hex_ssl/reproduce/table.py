"""Figures of an experiment as Markdown, beside the paper's."""

import statistics
from collections.abc import Mapping, Sequence

from hex_ssl.reproduce.experiment import METRICS, Experiment, Group, Row
from hex_ssl.reproduce.plan import Cell, Plan
from hex_ssl.reproduce.results import Record

Records = Mapping[str, Record]
"""Finished runs by key."""

NOTHING = "-"


def write_table(plan: Plan, records: Records) -> str:
    """The experiment's tables, and what there is to know of the figures.

    Args:
        plan: What was to be run.
        records: What has been.
    """
    experiment, scale = plan.experiment, plan.scale
    parts = [f"# {experiment.title}", f"Source: {experiment.source}. Scale: {scale.name}."]
    for group in experiment.groups.values():
        for name in group.datasets:
            cells = {cell.row: cell for cell in plan.cells if (cell.group, cell.dataset) == (group.name, name)}
            if cells:
                parts.append(f"## {group.title}, {scale.datasets[name].title}")
                parts.append(_table(plan, group, name, cells, records))
    return "\n\n".join([*parts, _notes(plan, records)]) + "\n"


def mean_deviation(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, of shares in percent.

    Example:
        >>> mean_deviation([0.5, 0.51, 0.52]), mean_deviation([0.5]), mean_deviation([])
        ('51.00 +- 1.00', '50.00', '-')
    """
    if not values:
        return NOTHING
    deviation = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> str:
    """Mean and standard error, over the seeds that both have, of the difference of shares, in points of percent.

    Example:
        >>> paired_difference({0: 0.5, 1: 0.54, 2: 0.6}, {0: 0.49, 1: 0.51})
        '+2.00 +- 1.00'
    """
    seeds = sorted(values.keys() & baseline.keys())
    differences = [100 * (values[seed] - baseline[seed]) for seed in seeds]
    if not differences:
        return NOTHING
    error = f" +- {statistics.stdev(differences) / len(differences) ** 0.5:.2f}" if len(differences) > 1 else ""
    return f"{statistics.mean(differences):+.2f}{error}"


def _table(plan: Plan, group: Group, dataset: str, cells: Mapping[str, Cell], records: Records) -> str:
    metrics = plan.experiment.metrics
    rows = [group.rows[name] for name in cells]
    figures = {
        (name, metric): _figures(plan.cells[cell], metric, records)
        for name, cell in cells.items()
        for metric in metrics
    }
    in_paper = [metric for metric in metrics if any(metric in row.paper.get(dataset, {}) for row in rows)]
    compared = len(rows) > 1
    header = ["row", "n"]
    for metric in metrics:
        header += [METRICS[metric], *(["difference"] if compared else []), *(["paper"] if metric in in_paper else [])]
    lines = [header]
    for row in rows:
        line = [row.title, str(max(len(figures[row.name, metric]) for metric in metrics))]
        for metric in metrics:
            line.append(mean_deviation([*figures[row.name, metric].values()]))
            if compared:
                line.append(_difference(row, metric, figures))
            if metric in in_paper:
                paper = row.paper.get(dataset, {}).get(metric)
                line.append(NOTHING if paper is None else f"{paper:.2f}")
        lines.append(line)
    baselines = dict.fromkeys(group.rows[row.baseline].title for row in rows if row.baseline != row.name)
    text = _markdown(lines)
    return f"{text}\n\nDifference from: {', '.join(baselines)}." if compared and baselines else text


def _difference(row: Row, metric: str, figures: Mapping[tuple[str, str], Mapping[int, float]]) -> str:
    baseline = figures.get((row.baseline, metric))
    if row.baseline == row.name or baseline is None:
        return NOTHING
    return paired_difference(figures[row.name, metric], baseline)


def _figures(keys: Mapping[int, str], metric: str, records: Records) -> dict[int, float]:
    """A metric by seed, of the runs that are finished and have it."""
    found = {seed: records[key]["metrics"].get(metric) for seed, key in keys.items() if key in records}
    return {seed: value for seed, value in found.items() if value is not None}


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines]
    return "\n".join([padded[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *padded[1:]])


def _notes(plan: Plan, records: Records) -> str:
    experiment, scale = plan.experiment, plan.scale
    keys = {key for seeds in plan.cells.values() for key in seeds.values()}
    lines = [
        "Accuracy on test images in percent: mean +- standard deviation over n seeds. Difference: mean +- standard "
        "error over seeds of the difference at equal seed. A dash: not run, or nothing to compare with.",
        f"{len(keys & records.keys())} of {len(keys)} runs are done.",
        f"Budget: {_budget(experiment, scale.name, plan)}.",
    ]
    if scale.name == "smoke":
        lines.append("Smoke runs show that all of it works; their figures mean nothing.")
    if scale.name != "paper":
        lines.append(
            f"The paper's figures are of another budget ({_budget(experiment, 'paper')}) and not to be compared with "
            "ours one by one."
        )
    return "\n".join(f"- {line}" for line in lines)


def _budget(experiment: Experiment, scale: str, plan: Plan | None = None) -> str:
    """Backbone, epochs and batch sizes of a scale's runs."""
    if plan is not None:
        configs = [job.config for job in plan.jobs]
    else:
        configs = [
            experiment.config(scale, group.name, row.name, dataset.name)
            for group, row, dataset in experiment.cells(scale)
        ]
    backbones = sorted({each.backbone.name for each in configs})
    epochs = sorted({each.run.epochs for each in configs})
    batches = sorted({each.data.batch_size for each in configs})
    listed = [", ".join(map(str, values)) for values in (backbones, epochs, batches)]
    return f"{listed[0]}, {listed[1]} epochs, batches of {listed[2]}"
