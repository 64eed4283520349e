"""The results of an experiment as Markdown tables, compared with the paper's."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hex_ssl.train.data.catalogue import dataset_card
from hex_ssl.train.reproduce.experiment import METRICS, Experiment, Group, Row
from hex_ssl.train.reproduce.plan import Cell, Job, Plan
from hex_ssl.train.reproduce.results import Images, Record

Records = Mapping[str, Record]
"""Finished runs by key."""

NOTHING = "-"


def write_table(plan: Plan, records: Records) -> str:
    """The tables of an experiment, with notes about the results.

    Args:
        plan: The plan of the experiment.
        records: The finished runs.
    """
    experiment, scale = plan.experiment, plan.scale
    parts = [f"# {experiment.title}", f"Source: {experiment.source}. Scale: {scale.name}."]
    for group in experiment.groups.values():
        for name in group.datasets:
            cells = {cell.row: cell for cell in plan.cells if (cell.group, cell.dataset) == (group.name, name)}
            if cells:
                parts.append(f"## {group.title}, {scale.datasets[name].title}")
                parts.append(_table(plan, group, name, cells, records))
        parts += _lacking(plan, group)
    return "\n\n".join([*parts, _notes(plan, records)]) + "\n"


def mean_deviation(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, of accuracies in [0, 1], in percent.

    Example:
        >>> mean_deviation([0.5, 0.51, 0.52]), mean_deviation([0.5]), mean_deviation([])
        ('51.00 +- 1.00', '50.00', '-')
    """
    if not values:
        return NOTHING
    deviation = f" +- {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> str:
    """Mean and standard error of the difference at equal seed, of accuracies in [0, 1], in percentage points.

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
        (name, metric): figures_of(plan.cells[cell], metric, records)
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
                line.append(_paper(row, dataset, metric))
        lines.append(line)
    baselines = dict.fromkeys(group.rows[row.baseline].title for row in rows if row.baseline != row.name)
    text = _markdown(lines)
    return f"{text}\n\nDifference from: {', '.join(baselines)}." if compared and baselines else text


def _lacking(plan: Plan, group: Group) -> list[str]:
    """A table of the paper's results on datasets of a group that the scale lacks, with its heading. Empty if none.

    It has one line per dataset, because there are many datasets and few rows.
    """
    experiment, chosen = plan.experiment, {cell.row for cell in plan.cells if cell.group == group.name}
    rows = [row for row in group.rows.values() if row.name in chosen]
    titles = {name: each.title for scale in experiment.scales.values() for name, each in scale.datasets.items()}
    names = [name for name in group.datasets if name not in plan.scale.datasets and any(name in r.paper for r in rows)]
    if not names:
        return []
    columns = [(row, metric) for row in rows for metric in experiment.metrics]
    lines = [["dataset", *(f"{row.title}, {METRICS[metric]}" for row, metric in columns)]]
    lines += [[titles[name], *(_paper(row, name, metric) for row, metric in columns)] for name in names]
    return ["The paper's, on datasets that this scale lacks:", _markdown(lines)]


def _paper(row: Row, dataset: str, metric: str) -> str:
    figure = row.paper.get(dataset, {}).get(metric)
    return NOTHING if figure is None else f"{figure:.2f}"


def _difference(row: Row, metric: str, figures: Mapping[tuple[str, str], Mapping[int, float]]) -> str:
    baseline = figures.get((row.baseline, metric))
    if row.baseline == row.name or baseline is None:
        return NOTHING
    return paired_difference(figures[row.name, metric], baseline)


def figures_of(keys: Mapping[int, str], metric: str, records: Records) -> dict[int, float]:
    """The values of a metric by seed, for the finished runs that have it.

    Args:
        keys: The keys of the row's runs, by seed.
        metric: The metric.
        records: The finished runs.
    """
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
        *(f"Images of {each}." for each in _images(plan)),
        *(f"Evaluated by {each}." for each in _protocols(plan)),
    ]
    if scale.name == "smoke":
        lines.append("Smoke runs show that all of it works; their figures mean nothing.")
    if (
        scale.name != "paper"
        and "paper" in experiment.scales
        and any(experiment.groups[cell.group].rows[cell.row].paper for cell in plan.cells)
    ):
        lines.append(
            f"The paper's figures are of another budget ({_budget(experiment, 'paper')}) and not to be compared with "
            "ours one by one."
        )
    return "\n".join(f"- {line}" for line in lines)


def _budget(experiment: Experiment, scale: str, plan: Plan | None = None) -> str:
    """Backbones, epochs and batch sizes of the runs of a scale."""
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


def _images(plan: Plan) -> list[str]:
    """For each dataset, the images of training and evaluation."""
    jobs = {job.key: job for job in plan.jobs}
    found = [
        f"{plan.scale.datasets[cell.dataset].title}: {_images_of(jobs[key])}"
        for cell, keys in plan.cells.items()
        for key in keys.values()
    ]
    return list(dict.fromkeys(found))


def _images_of(job: Job) -> str:
    fraction = job.config.data.fraction
    share = "" if fraction == 1.0 else f"{100 * fraction:g} % of "
    trained = share + _split(job.trained_on.images, "train")
    labelled, tested = (_split(job.evaluated_on.images, split) for split in ("train", "test"))
    labels = "their labels" if labelled == trained else f"the labels of {labelled}"
    return f"trained on {trained}; evaluated with {labels}, tested on {tested}"


def _split(images: Images, split: str) -> str:
    source = images.root or images.name
    if images.train_rows is not None:
        return f"the {f'first {images.train_rows:,}' if split == 'train' else 'other'} rows of {source}"
    count = dataset_card(images.name).splits.get(split)
    number = "" if count is None else f"{count:,} "
    return f"the {number}{'training' if split == 'train' else 'test'} images of {source}"


def _protocols(plan: Plan) -> list[str]:
    """The protocols of the metrics in the table."""
    from hex_ssl.train.evaluate.settings import KNNSettings, ProbeSettings

    shown = {metric.split(".")[0] for metric in plan.experiment.metrics}
    found = []
    if "probe" in shown:
        probe = ProbeSettings(**plan.scale.evaluation["probe"])
        rates = dict.fromkeys(probe.learning_rate or job.config.method.probe_learning_rate for job in plan.jobs)
        found += [replace(probe, learning_rate=rate).describe() for rate in rates]
    if "knn" in shown:
        found.append(KNNSettings(**plan.scale.evaluation["knn"]).describe())
    return list(dict.fromkeys(found))
