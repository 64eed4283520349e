"""From an experiment to the runs that are to be made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hex_ssl.train.config import Config
from hex_ssl.train.data.catalogue import GENERATED
from hex_ssl.train.reproduce.experiment import Dataset, Experiment, Scale
from hex_ssl.train.reproduce.results import Images, describe_run, key_of
from hex_ssl.train.reproduce.settings import ReproduceConfig


@dataclass(frozen=True)
class Cell:
    """A row on a dataset.

    Args:
        group, row, dataset: Their names.
    """

    group: str
    row: str
    dataset: str


@dataclass(frozen=True)
class Place:
    """Where images are on this machine.

    Args:
        images: Which.
        root: The folder or file that is read; None where they come with a package.
        file: The one parquet file that `root`, a folder, is to be made of; None: `root` is there already.
    """

    images: Images
    root: Path | None
    file: Path | None = None


@dataclass(frozen=True)
class Job:
    """One pretraining and its evaluation.

    Args:
        key: Its name.
        config: The run, in its folder.
        description: All that moves a figure, as `describe_run` has it.
        trained_on: The run's images.
        evaluated_on: Those of the evaluation.
        evaluation: Settings of "knn" and "probe".
        results: The file of the finished runs.
        keep_checkpoints: Keep checkpoints and backbone.
    """

    key: str
    config: Config
    description: dict[str, Any]
    trained_on: Place
    evaluated_on: Place
    evaluation: dict[str, dict[str, Any]]
    results: Path
    keep_checkpoints: bool


@dataclass(frozen=True)
class Plan:
    """What is to be run, and which cells of the table it fills.

    Args:
        experiment: The experiment.
        scale: Its scale.
        cells: The key of each cell's run, by seed.
        jobs: Each run once: stage by stage, in each all of the first seed, then those of the second, and so on.
    """

    experiment: Experiment
    scale: Scale
    cells: dict[Cell, dict[int, str]]
    jobs: list[Job]


def make_plan(experiment: Experiment, asked: ReproduceConfig) -> Plan:
    """The runs of an experiment; writes nothing.

    Args:
        experiment: The experiment.
        asked: Scale, rows, seeds and folders.

    Raises:
        ValueError: The experiment has no such scale, or nothing matches.
    """
    if asked.scale not in experiment.scales:
        known = ", ".join(experiment.scales)
        raise ValueError(f'expected `scale` to be one of {known} in {experiment.name}, but got "{asked.scale}"')
    scale = experiment.scales[asked.scale]
    if asked.group is not None and asked.group not in experiment.groups:
        raise ValueError(f'expected `group` to be one of {", ".join(experiment.groups)}, but got "{asked.group}"')
    chosen = [
        (group, row, dataset)
        for group, row, dataset in experiment.cells(asked.scale)
        if asked.group in (None, group.name) and fnmatchcase(row.name, asked.rows)
    ]
    if not chosen:
        names = ", ".join(dict.fromkeys(row.name for _, row, _ in experiment.cells(asked.scale)))
        raise ValueError(f'expected `rows` to match some of {names}, but got "{asked.rows}"')
    cells: dict[Cell, dict[int, str]] = {Cell(group.name, row.name, dataset.name): {} for group, row, dataset in chosen}
    jobs: dict[str, Job] = {}
    for stage, seed in product(scale.stages, asked.seeds or scale.seeds):
        for group, row, dataset in (each for each in chosen if stage.has(each[0].name, each[1].name)):
            config = experiment.config(scale.name, group.name, row.name, dataset.name, seed, asked.epochs)
            job = _job(config, scale, dataset, asked)
            cells[Cell(group.name, row.name, dataset.name)][seed] = job.key
            jobs.setdefault(job.key, job)
    return Plan(experiment, scale, cells, list(jobs.values()))


def results_file(asked: ReproduceConfig) -> Path:
    """Where the finished runs are."""
    return Path(asked.out) / "results.jsonl" if asked.results is None else Path(asked.results)


def check_data(jobs: Sequence[Job]) -> None:
    """Says what images are missing, before the first run.

    Args:
        jobs: The runs that are to be made.

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: `data` is not given, but needed.
    """
    for place in dict.fromkeys(place for job in jobs for place in (job.trained_on, job.evaluated_on)):
        source = place.file or place.root
        if source is None and place.images.name not in GENERATED:
            raise ValueError(f"expected `data` to be the folder that holds {_wanted(place.images)}, but got None")
        if source is not None and not source.exists():
            raise FileNotFoundError(f"expected `data` to hold {_wanted(place.images)}, but there is no {source}")


def check_device(jobs: Sequence[Job]) -> None:
    """Says that there is no GPU where runs ask for one, before the first run.

    Args:
        jobs: The runs that are to be made.

    Raises:
        ValueError: There is none.
    """
    asking = [job for job in jobs if job.config.run.accelerator in ("gpu", "cuda")]
    if asking and not torch.cuda.is_available():
        raise ValueError(
            f"expected a GPU, which {len(asking)} of the runs ask for, but torch {torch.__version__} sees none"
        )


def _wanted(images: Images) -> str:
    return images.root or images.name


def _job(config: Config, scale: Scale, dataset: Dataset, asked: ReproduceConfig) -> Job:
    trained_on, evaluated_on = _place(dataset, asked), _place(scale.datasets[dataset.evaluate], asked)
    evaluation = {by: dict(settings) for by, settings in scale.evaluation.items()}
    description = describe_run(config, trained_on.images, evaluated_on.images, evaluation)
    key = key_of(description)
    root = None if trained_on.root is None else str(trained_on.root)
    placed = replace(
        config,
        data=replace(config.data, root=root),
        run=replace(config.run, root=str(Path(asked.out) / "runs"), name=key),
    )
    return Job(
        key,
        placed,
        description,
        trained_on,
        evaluated_on,
        evaluation,
        results_file(asked),
        asked.keep_checkpoints,
    )


def _place(dataset: Dataset, asked: ReproduceConfig) -> Place:
    name, below = dataset.data["name"], dataset.data.get("root")
    images = Images(name, below, dataset.train_rows)
    if asked.data is None or name in GENERATED:
        return Place(images, None)
    data = Path(asked.data).expanduser()
    if dataset.train_rows is not None:
        folder = Path(asked.out) / "data" / f"{Path(str(below)).stem}-{dataset.train_rows}"
        return Place(images, folder, data / str(below))
    if below is not None:
        return Place(images, data / below)
    return Place(images, data / name if (data / name).is_dir() else data)
