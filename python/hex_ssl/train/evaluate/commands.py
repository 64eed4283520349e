"""The commands: k-NN, linear probe, fine-tuning, and these on many datasets. Each result carries its protocol.

Each measurement is saved at once and not repeated. A command that was stopped continues where it stopped.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import EvaluationImages
from hex_ssl.train.evaluate.accuracy import class_accuracies
from hex_ssl.train.evaluate.features import Features, extract_features
from hex_ssl.train.evaluate.finetune import train_network
from hex_ssl.train.evaluate.knn import knn_accuracies, nearest_neighbours
from hex_ssl.train.evaluate.linear import logistic_scores, train_linear
from hex_ssl.train.evaluate.results import FIGURES, Results, Row, open_results
from hex_ssl.train.evaluate.settings import (
    EvaluationConfig,
    FinetuneConfig,
    FinetuneSettings,
    KNNConfig,
    KNNSettings,
    ProbeConfig,
    ProbeSettings,
    TransferConfig,
)
from hex_ssl.train.evaluate.source import Source, Subject, choose_epochs, load_subject, open_source
from hex_ssl.train.evaluate.splits import Splits, open_splits, some_rows, workers

Settings = KNNSettings | ProbeSettings | FinetuneSettings
Announce = Callable[[str], None]
AnySettings = TypeVar("AnySettings", KNNSettings, ProbeSettings, FinetuneSettings)

ANY_METHOD = 1.0
"""The linear probe's learning rate if no method is known."""


@dataclass
class Evaluation:
    """A prepared command: everything has been found, and nothing has been written.

    Attributes:
        config: The command.
        settings: The protocols by name.
        source: The source of the networks.
        epochs: Epochs of the networks to evaluate.
        places: Locations of the datasets.
        results: Earlier results, to which new ones are added.
        opened: Images that are already open.
    """

    config: EvaluationConfig
    settings: Mapping[str, Settings]
    source: Source
    epochs: list[int | None]
    places: list["Place"]
    results: Results
    opened: dict["Place", Splits] = field(default_factory=dict)

    def run(self, announce: Announce | None = None) -> Results:
        """Measures what has not been measured yet.

        Args:
            announce: Called with a line about the images, and with a line after each measurement.

        Returns:
            The rows, saved in `Results.path`, including those of earlier commands with the same protocol.
        """
        for place in self.places:
            splits = self.opened.pop(place, None) or self.open(place)
            if announce is not None:
                announce(splits.found)
            for epoch in self.epochs:
                subject = load_subject(self.source, epoch, self.config.space)
                self._measure(Measuring(subject, splits, self.config), place.label, announce)
        return self.results

    def open(self, place: "Place") -> Splits:
        """The images of a dataset."""
        config = self.config
        return open_splits(
            place.name, place.root, self.source.shape, config.holdout, config.seed, place.level, dict(place.arguments)
        )

    def _measure(self, measuring: "Measuring", dataset: str, announce: Announce | None) -> None:
        subject, config = measuring.subject, self.config
        for by, settings in self.settings.items():
            for fraction in config.fractions:
                key = {"dataset": dataset, "by": by, "fraction": fraction}
                if self.results.measured(subject.weights, subject.epoch, **key) and not config.again:
                    continue
                start = time.perf_counter()
                rows = measuring.measure(settings, fraction)
                told = {"seconds": round(time.perf_counter() - start, 2), "weights": subject.weights}
                rows = [{**key, "epoch": subject.epoch, **measuring.counts(), **row, **told} for row in rows]
                self.results.add(rows)
                if announce is not None:
                    announce(_line(rows[0]))


def prepare(config: KNNConfig | ProbeConfig | FinetuneConfig | TransferConfig) -> Evaluation:
    """Finds everything that a command needs, and writes nothing.

    Args:
        config: The command.

    Raises:
        FileNotFoundError: There is no such run, or a dataset's files are missing.
        ValueError: The configuration contradicts the run, the data or earlier results.
    """
    if isinstance(config, TransferConfig):
        command, datasets = "transfer", list[str | None](config.datasets)
        settings: dict[str, Settings] = {by: getattr(config, by) for by in config.by}
    else:
        command, settings = _single(config)
        datasets = [config.dataset]
    chosen_device(config.device)
    source = open_source(config.source, config.seed)
    settings = {by: _with_learning_rate(each, source) for by, each in settings.items()}
    epochs = choose_epochs(source, config.epochs)
    places = [_place_of(source, name, config.root) for name in datasets]
    results = open_results(command, source.path, source.folder, _protocol(config, settings, source), config.output)
    evaluation = Evaluation(config, settings, source, epochs, places, results)
    for place in places:  # reports missing files now, not after hours
        splits = evaluation.open(place)
        if len(places) == 1:  # many datasets would all be in memory at once
            evaluation.opened[place] = splits
    return evaluation


def run_knn(config: KNNConfig, announce: Announce | None = None) -> Results:
    """k-NN accuracy: the training images, without augmentation, classify the test images.

    Measurements that were made before with the same protocol are not repeated.

    Args:
        config: What to evaluate, and the protocol.
        announce: Called with a line after each measurement.

    Returns:
        A row for each network, fraction of the labels, k and temperature. They are also saved in `Results.path`.

    Raises:
        FileNotFoundError, ValueError: See `prepare`.
    """
    return prepare(config).run(announce)


def run_probe(config: ProbeConfig, announce: Announce | None = None) -> Results:
    """Accuracy of a linear layer on the frozen network.

    Args, Returns, Raises: As :func:`run_knn`, with a row for each network and fraction of the labels.
    """
    return prepare(config).run(announce)


def run_finetune(config: FinetuneConfig, announce: Announce | None = None) -> Results:
    """Accuracy of the network after it has been trained with labels.

    Args, Returns, Raises: As :func:`run_knn`, with a row for each network and fraction of the labels.
    """
    return prepare(config).run(announce)


def run_transfer(config: TransferConfig, announce: Announce | None = None) -> Results:
    """k-NN, linear probe or fine-tuning on many datasets. All datasets are opened before the first is measured.

    Args, Returns, Raises: As :func:`run_knn`, with rows for each dataset.
    """
    return prepare(config).run(announce)


class Measuring:
    """One network on one dataset. Values that its measurements share are computed once, when they are first needed.

    Args:
        subject: The network.
        splits: The images.
        config: The other settings of the command.
    """

    def __init__(self, subject: Subject, splits: Splits, config: EvaluationConfig) -> None:
        self.subject = subject
        self.splits = splits
        self.config = config
        self.device = torch.device(chosen_device(config.device))
        self.network = subject.network.to(self.device)

    def measure(self, settings: Settings, fraction: float) -> list[Row]:
        """The accuracies of one protocol with a fraction of the labels: means and deviations over the draws.

        Args:
            settings: The protocol.
            fraction: The fraction, in (0, 1].

        Returns:
            A row for each setting that the protocol varies.
        """
        draws = [self._measure_draw(settings, fraction, draw) for draw in range(self._draws(fraction))]
        return [_averaged(rows) for rows in zip(*draws, strict=True)]

    def counts(self) -> Row:
        """The numbers of images and classes, and the normalisation of the images."""
        superclasses = self.splits.superclasses
        return {
            "test_images": len(self.splits.test),
            "classes": self.splits.classes,
            "superclasses": None if superclasses is None else len(superclasses.unique()),
            "normalised": self.splits.shown,
        }

    def _draws(self, fraction: float) -> int:
        return self.config.draws if fraction < 1.0 else 1

    def _measure_draw(self, settings: Settings, fraction: float, draw: int) -> list[Row]:
        seed = self.config.seed + draw
        rows = self.splits.subset(fraction, seed)
        if isinstance(settings, KNNSettings):
            figures = self._knn(settings, rows)
        elif isinstance(settings, ProbeSettings):
            figures = [self._probe(settings, rows, seed)]
        else:
            figures = [self._finetune(settings, rows, seed)]
        return [{"train_images": len(rows), **each} for each in figures]

    def _knn(self, settings: KNNSettings, rows: Tensor) -> list[Row]:
        bank, test, splits, distance = self._bank(rows), self._test, self.splits, settings.distance
        neighbours = nearest_neighbours(bank.h, test.h, max(settings.k), distance)
        temperatures: list[float | None] = [*settings.temperature] if distance == "cosine" else [None]
        data = (neighbours, bank.labels, test.labels, splits.classes, splits.superclasses)
        return [
            {"k": k, "temperature": each, **knn_accuracies(*data, k, each or 1.0, distance)}
            for k in settings.k
            for each in temperatures
        ]

    def _probe(self, settings: ProbeSettings, rows: Tensor, seed: int) -> Row:
        splits, test = self.splits, self._test
        if settings.solver == "logistic":
            scores = logistic_scores(self._bank(rows), test.h, splits.classes, settings.regularisation)
        else:
            generator = torch.Generator().manual_seed(seed)
            layer = train_linear(self._epochs_of(settings, rows, seed), splits.classes, settings, generator)
            with torch.no_grad():
                scores = layer(test.h.float())
        return _figures(scores, test.labels, splits)

    def _epochs_of(self, settings: ProbeSettings, rows: Tensor, seed: int) -> Callable[[int], Features]:
        if not settings.augment:
            bank = self._bank(rows)
            return lambda epoch: bank
        images, config = self.splits.train, self.config
        processes = workers(images, config.num_workers, drawing=True)
        return lambda epoch: extract_features(
            self.network, self.splits.random(rows, seed, epoch), config.batch_size, processes
        )

    def _finetune(self, settings: FinetuneSettings, rows: Tensor, seed: int) -> Row:
        splits = self.splits
        model = train_network(
            self.network,
            lambda epoch: splits.random(rows, seed, epoch),
            len(rows),
            splits.classes,
            settings,
            seed,
            workers(splits.train, self.config.num_workers, drawing=True),
        )
        scores = self._extract(splits.test, model)
        return _figures(scores.h, scores.labels, splits)

    def _bank(self, rows: Tensor) -> Features:
        h, labels = self._train
        places = torch.searchsorted(self._needed, rows).to(h.device)
        return Features(h[places], labels[places])

    @cached_property
    def _needed(self) -> Tensor:
        """The training images that any draw uses. With a small fraction, the network can skip most of them."""
        config = self.config
        draws = [
            self.splits.subset(share, config.seed + draw)
            for share in config.fractions
            for draw in range(self._draws(share))
        ]
        return torch.cat(draws).unique()

    @cached_property
    def _train(self) -> Features:
        return self._extract(some_rows(self.splits.train, self._needed))

    @cached_property
    def _test(self) -> Features:
        return self._extract(self.splits.test)

    def _extract(self, images: EvaluationImages, network: nn.Module | None = None) -> Features:
        processes = workers(images, self.config.num_workers)
        return extract_features(network or self.network, images, self.config.batch_size, processes)


def chosen_device(device: str) -> str:
    """The device with a name; "auto": a GPU if there is one.

    Raises:
        ValueError: This machine has no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # torch's type depends on the device
        reason = str(error).partition("\n")[0]
        raise ValueError(f'expected `device` to be one that this machine has, but got "{device}": {reason}') from error
    return device


def _figures(scores: Tensor, labels: Tensor, splits: Splits) -> Row:
    return class_accuracies(scores.double().cpu(), labels.cpu(), splits.superclasses)


def _averaged(rows: tuple[Row, ...]) -> Row:
    """The means of the accuracies of several draws, their standard deviations, and the accuracies themselves."""
    if len(rows) == 1:
        return rows[0]
    values = {name: [row[name] for row in rows] for name in FIGURES if name in rows[0]}
    return {
        **rows[0],
        **{name: statistics.mean(each) for name, each in values.items()},
        "deviation": {name: statistics.stdev(each) for name, each in values.items()},
        "draws": values,
    }


def _line(row: Row) -> str:
    epoch = "" if row["epoch"] is None else f"  epoch {row['epoch']}"
    return (
        f"{row['dataset']}  {row['by']}{epoch}  {100 * row['fraction']:g} % of the labels  "
        f"top-1 {100 * row['top1']:.2f} %  ({row['seconds']:.1f} s)"
    )


def _single(config: KNNConfig | ProbeConfig | FinetuneConfig) -> tuple[str, dict[str, Settings]]:
    """The command and its one protocol."""
    if isinstance(config, KNNConfig):
        return "knn", {"knn": _part(KNNSettings, config)}
    if isinstance(config, ProbeConfig):
        return "probe", {"probe": _part(ProbeSettings, config)}
    return "finetune", {"finetune": _part(FinetuneSettings, config)}


def _part(kind: type[AnySettings], config: AnySettings) -> AnySettings:
    """The settings of one protocol, taken from a command's settings."""
    return kind(**{each.name: getattr(config, each.name) for each in fields(kind)})


def _with_learning_rate(settings: Settings, source: Source) -> Settings:
    if not isinstance(settings, ProbeSettings) or settings.solver != "sgd" or settings.learning_rate is not None:
        return settings
    rate = ANY_METHOD if source.config is None else source.config.method.probe_learning_rate
    return replace(settings, learning_rate=rate)


class Place(NamedTuple):
    """A dataset, its location, the level of its superclasses, and the arguments of the user's function."""

    name: str
    root: str | None
    level: str | None = None
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The name in the results, with the location for "folder" and "parquet", which can be many datasets."""
        return f"{self.name}={self.root}" if self.name in ("folder", "parquet") else self.name


def _place_of(source: Source, given: str | None, root: str | None) -> Place:
    """The place of a dataset that is given as "NAME" or "NAME=ROOT". None is the dataset of the run.

    If `root` contains a folder with the name of the dataset, that folder is used. One root can serve many datasets.
    """
    config = DataConfig() if source.config is None else source.config.data
    if given is None and source.config is None:
        raise ValueError(f"expected `dataset` to be given, because {source.path} does not name its dataset")
    if given is None and ":" in config.name and source.path.suffix == ".safetensors":
        raise ValueError(
            f'expected `dataset` to be given, because {source.path} names the function "{config.name}" for its '
            f"images: if you trust the file, set `dataset={config.name}`, or evaluate its run folder"
        )
    name, _, own_root = (given or config.name).partition("=")
    folder = own_root or root or config.root
    level, arguments = (config.level, tuple(config.arguments.items())) if name == config.name else (None, ())
    if folder is not None and not own_root and (Path(folder) / name).is_dir():
        return Place(name, str(Path(folder) / name), level, arguments)
    return Place(name, folder, level, arguments)


def _protocol(config: EvaluationConfig, settings: Mapping[str, Settings], source: Source) -> dict[str, Any]:
    """Everything that affects an accuracy, except what the rows state."""
    return {
        "settings": {by: asdict(each) for by, each in settings.items()},
        "space": config.space,
        "images": {"channels": source.shape.channels, "size": source.shape.size},
        "holdout": config.holdout,
        "draws": config.draws,
        "seed": config.seed,
        "description": _described(config, settings, source),
    }


def _described(config: EvaluationConfig, settings: Mapping[str, Settings], source: Source) -> str:
    space = "representations of the backbone" if config.space == "backbone" else "projections"
    tested = f"{100 * config.holdout:g} % of the training images, held out" if config.holdout else "the test images"
    drawn = f" (below 100 %: mean +- standard deviation over {config.draws} draws)" if config.draws > 1 else ""
    lines = [
        f"Accuracy in percent on {tested}; {space}; images of {source.shape.size}x{source.shape.size} pixels, "
        "normalised by the mean and deviation below.",
        *(f"- {each.describe()}" for each in settings.values()),
        f"- labels: the share of the training images that is used, the same of each class{drawn}; seed {config.seed}",
        "- superclass: a superclass has its classes' votes, or probabilities, together",
    ]
    return "\n".join(lines)
