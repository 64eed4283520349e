"""Plans the runs of an experiment."""

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
    """A row of a group on a dataset.

    Args:
        group, row, dataset: Names of the group, the row and the dataset.
    """

    group: str
    row: str
    dataset: str


@dataclass(frozen=True)
class Place:
    """The location of images on this machine.

    Args:
        images: The images.
        root: The folder or file to read. None for generated data and digits.
        file: The parquet file that is split into the folder `root`. None if `root` exists already.
    """

    images: Images
    root: Path | None
    file: Path | None = None


@dataclass(frozen=True)
class Job:
    """One pretraining and its evaluation.

    Args:
        key: Key of the run, and name of its folder.
        config: Configuration of the run.
        description: Everything that affects the results, from `describe_run`.
        trained_on: The images of the run.
        evaluated_on: The images of the evaluation.
        evaluation: Settings of "knn" and "probe".
        results: The file of the finished runs.
        keep_checkpoints: Whether to keep checkpoints and backbone after the evaluation.
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
    """The runs of an experiment, and the cells of the table that they fill.

    Args:
        experiment: The experiment.
        scale: The scale.
        cells: For each cell, the keys of its runs by seed.
        jobs: Each run once, stage by stage, and within a stage seed by seed.
    """

    experiment: Experiment
    scale: Scale
    cells: dict[Cell, dict[int, str]]
    jobs: list[Job]


def make_plan(experiment: Experiment, asked: ReproduceConfig) -> Plan:
    """Plans the runs of an experiment. Writes nothing.

    Args:
        experiment: The experiment.
        asked: Scale, rows, seeds and folders.

    Raises:
        ValueError: The experiment has no such scale or group, or no row matches.
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
    """The file of the finished runs."""
    return Path(asked.out) / "results.jsonl" if asked.results is None else Path(asked.results)


def check_data(jobs: Sequence[Job]) -> None:
    """Checks before the first run that no images are missing.

    Args:
        jobs: The runs to execute.

    Raises:
        FileNotFoundError: A file or folder is missing.
        ValueError: `data` is needed, but not given.
    """
    for place in dict.fromkeys(place for job in jobs for place in (job.trained_on, job.evaluated_on)):
        source = place.file or place.root
        if source is None and place.images.name not in GENERATED:
            raise ValueError(f"expected `data` to be the folder that holds {_wanted(place.images)}, but got None")
        if source is not None and not source.exists():
            raise FileNotFoundError(f"expected `data` to hold {_wanted(place.images)}, but there is no {source}")


def check_device(jobs: Sequence[Job]) -> None:
    """Checks before the first run that there is a GPU, if runs need one.

    Args:
        jobs: The runs to execute.

    Raises:
        ValueError: There is no GPU.
    """
    asking = [job for job in jobs if job.config.run.accelerator in ("gpu", "cuda")]
    if asking and not torch.cuda.is_available():
        raise ValueError(
            f"expected a GPU, which {len(asking)} of the runs need, but torch {torch.__version__} finds none"
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
