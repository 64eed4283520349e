"""Experiments as declared in `experiments/*.yaml`, checked against the configuration of a run.

    title, source: Title of the experiment, and where it is in the paper.
    metrics: The columns of the table, from `METRICS`.
    picture: {setting, label, lines}, optional: a plot in addition to the table.
        setting: The setting of a run on the horizontal axis, such as data.batch_size.
        label: Label of the axis.
        lines: NAME: pattern of the names of the rows in this line, such as "hex_*".
    groups: Each group of rows has its own table:
        NAME: {title, baseline, datasets, set, rows}
            baseline: The row from which differences are computed.
            datasets: Names of datasets of the scales. A dataset that a scale lacks is left out.
            set: Settings of a run (`hex_ssl.train.config.Config`) for all rows.
            rows: NAME: {title, set, at, baseline, paper}
                at: Settings for some scales only, by scale.
                paper: The paper's results in percent, by dataset and metric.
    scales: For some of smoke, small, gpu and paper: {recipe, set, seeds, stages, datasets, evaluation}, or null to
        remove a scale of the extended file.
        stages: Lists of patterns of rows, such as "losses/hex*". Only these rows are run, and all seeds of a list
            before the next list. Without it, all rows are one stage.
        datasets: NAME: {title, data, train_rows, evaluate}
            data: Settings of a run's `data`. `root` is relative to the folder of all data.
            train_rows: Number of first rows that are the training images, if `root` is a single parquet file.
            evaluate: Another dataset of the scale to evaluate on.
        evaluation: {knn: settings, probe: settings} (`hex_ssl.train.evaluate.settings`).

A file may begin with `extends: OTHER.yaml`, or with `extends: table7`, a packaged experiment. In `set` and `at`,
`{share_of_epochs: 0.25}` stands for that fraction of the run's epochs, rounded, at least 1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from hex_ssl.train.config import Config
from hex_ssl.train.recipes import find_packaged, list_packaged, load_extended, load_recipe, merged

FOLDER = Path(str(files("hex_ssl.train.reproduce"))) / "experiments"
SCALES = ("smoke", "small", "gpu", "paper")
SHARE = "share_of_epochs"

METRICS = {
    "probe.top1": "linear top-1",
    "probe.top5": "linear top-5",
    "knn.top1": "k-NN top-1",
    "knn.superclass_top1": "superclass k-NN top-1",
}
"""The metrics (protocol and measure) and their titles in the table. All are accuracies on test images."""

Settings = dict[str, Any]
"""Nested settings of a run: some groups of `hex_ssl.train.config.Config`, with some settings of each."""


@dataclass(frozen=True)
class Row:
    """One variant of a group.

    Args:
        name: Key of the row in the file.
        title: Title of the row in the table.
        set: Settings of the row.
        at: Further settings of the row, by scale.
        baseline: The row from which the difference is computed.
        paper: The paper's results, in percent, by dataset and metric.
    """

    name: str
    title: str
    set: Settings
    at: Mapping[str, Settings]
    baseline: str
    paper: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Group:
    """The rows of one table.

    Args:
        name: Key of the group in the file.
        title: Title of the table.
        datasets: Names of the datasets.
        set: Settings of all rows.
        rows: The rows by name.
    """

    name: str
    title: str
    datasets: tuple[str, ...]
    set: Settings
    rows: Mapping[str, Row]


@dataclass(frozen=True)
class Dataset:
    """Images to train on.

    Args:
        name: Key of the dataset in the file.
        title: Title of the dataset in the table.
        data: Settings of a run's `data`.
        train_rows: Number of first rows of a single parquet file that are the training images. None uses the dataset's
            own splits.
        evaluate: Name of the dataset to evaluate on.
    """

    name: str
    title: str
    data: Settings
    train_rows: int | None
    evaluate: str


@dataclass(frozen=True)
class Stage:
    """Rows that are run before those of the next stage.

    Args:
        patterns: Patterns of the names of the rows, GROUP/ROW.
    """

    patterns: tuple[str, ...] = ("*",)

    def has(self, group: str, row: str) -> bool:
        """Whether a row belongs to this stage."""
        return any(fnmatchcase(f"{group}/{row}", pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Scale:
    """The budget of an experiment.

    Args:
        name: One of `SCALES`.
        recipe: The settings of the recipe.
        set: Settings of all runs, which replace those of the recipe.
        seeds: The seeds with which each row is run.
        stages: The stages in order.
        datasets: The datasets by name.
        evaluation: Settings of "knn" and "probe".
    """

    name: str
    recipe: Settings
    set: Settings
    seeds: tuple[int, ...]
    stages: tuple[Stage, ...]
    datasets: Mapping[str, Dataset]
    evaluation: Mapping[str, Settings]


@dataclass(frozen=True)
class Picture:
    """A plot of an experiment's accuracies over a setting of its runs.

    Args:
        setting: The dotted name of the setting on the horizontal axis.
        label: Label of the axis.
        lines: For each line, by title, the pattern of the names of its rows.
    """

    setting: str
    label: str
    lines: Mapping[str, str]

    def value(self, config: Config) -> float:
        """The value of the setting in a run.

        Raises:
            ValueError: There is no such setting, or it is not a number in this run.
        """
        found: Any = config.as_dict()
        for name in self.setting.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise ValueError(
                f'expected `picture.setting` to be a number in each run, but "{self.setting}" is {found!r}'
            )
        return found


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment's file.

    Args:
        name: Name of the file without its extension.
        title: Title of the experiment.
        source: Where it is in the paper, or "ours".
        metrics: Some of `METRICS`.
        groups: The groups by name.
        scales: The scales by name.
        picture: The plot, or None.
    """

    name: str
    title: str
    source: str
    metrics: tuple[str, ...]
    groups: Mapping[str, Group]
    scales: Mapping[str, Scale]
    picture: Picture | None = None

    def config(
        self, scale: str, group: str, row: str, dataset: str, seed: int = 0, epochs: int | None = None
    ) -> Config:
        """The configuration of a row's run, with `data.root` as in the file.

        Args:
            scale, group, row, dataset: Names of the scale, the group, the row and the dataset.
            seed: Seed of the run.
            epochs: Number of epochs to use instead of that of the scale.

        Raises:
            ValueError: A setting is unknown, has another type or is out of range. The message names the row.
        """
        scaled, grouped = self.scales[scale], self.groups[group]
        varied = grouped.rows[row]
        settings = merged(
            scaled.recipe,
            scaled.set,
            grouped.set,
            varied.set,
            varied.at.get(scale, {}),
            {"data": scaled.datasets[dataset].data},
            {"run": {"seed": seed, "existing": "resume", "progress": False}},
            {} if epochs is None else {"run": {"epochs": epochs}},
        )
        try:
            whole = Config.from_dict({"run": settings["run"]}).run.epochs
            return Config.from_dict(_with_shares(settings, whole))
        except ValueError as error:
            raise ValueError(f"{self.name}: groups.{group}.rows.{row}, scale {scale}, {dataset}: {error}") from error

    def cells(self, scale: str) -> Iterator[tuple[Group, Row, Dataset]]:
        """Every row in the stages of a scale, with each dataset of its group that the scale has."""
        datasets, stages = self.scales[scale].datasets, self.scales[scale].stages
        for group in self.groups.values():
            for row in (row for row in group.rows.values() if any(stage.has(group.name, row.name) for stage in stages)):
                yield from ((group, row, datasets[name]) for name in group.datasets if name in datasets)


def list_experiments() -> list[str]:
    """The names of the packaged experiments.

    Example:
        >>> "table7" in list_experiments()
        True
    """
    return list_packaged(FOLDER)


def load_experiment(name: str | Path) -> Experiment:
    """Loads an experiment and checks every row at each scale.

    Args:
        name: A YAML file, or the name of a packaged experiment.

    Raises:
        FileNotFoundError: There is no such file and no such experiment.
        ValueError: The file is not valid. The message names the file, the place and the key.

    Example:
        >>> load_experiment("table7").groups["thresholds"].rows["adaptive"].paper["cifar100"]["probe.top1"]
        67.56
    """
    path = find_packaged(name, FOLDER, "experiments")
    experiment = _read(path.stem, _Node(str(path.name), "", load_extended(path, FOLDER, "experiments")))
    for scale in experiment.scales:
        for group, row, dataset in experiment.cells(scale):
            config = experiment.config(scale, group.name, row.name, dataset.name)
            if experiment.picture is not None:
                _check_picture(experiment, experiment.picture, row.name, config)
    return experiment


def _check_picture(experiment: Experiment, picture: Picture, row: str, config: Config) -> None:
    try:
        picture.value(config)
    except ValueError as error:
        raise ValueError(f"{experiment.name}: rows.{row}: {error}") from error


def check_losses(experiment: Experiment) -> None:
    """Checks the settings of the loss, which are only checked when it is built, for every row at each scale.

    Args:
        experiment: The experiment.

    Raises:
        ValueError: A setting of a loss is not valid. The message names the row.
    """
    from hex_ssl.train.methods.build import method_class

    for scale in experiment.scales:
        for group, row, dataset in experiment.cells(scale):
            config = experiment.config(scale, group.name, row.name, dataset.name)
            try:
                method_class(config.method.name).loss_arguments(config.loss, config.run.epochs)
            except ValueError as error:
                place = f"groups.{group.name}.rows.{row.name}, scale {scale}"
                raise ValueError(f"{experiment.name}: {place}: {error}") from error


def _with_shares(settings: Any, epochs: int) -> Any:
    if not isinstance(settings, dict):
        return settings
    if settings.keys() == {SHARE}:
        if not isinstance(settings[SHARE], int | float) or not 0 <= settings[SHARE] <= 1:
            raise ValueError(f"expected `{SHARE}` to be in [0, 1], but got {settings[SHARE]!r}")
        return max(1, round(settings[SHARE] * epochs))
    return {key: _with_shares(value, epochs) for key, value in settings.items()}


_TYPES: dict[type, str] = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number"}


class _Node:
    """A value in a file, with its place for error messages."""

    def __init__(self, file: str, place: str, value: Any) -> None:
        self.file, self.place, self.value = file, place, value

    def error(self, expected: str) -> ValueError:
        place = f" {self.place}:" if self.place else ""
        return ValueError(f"{self.file}:{place} expected {expected}, but got {self.value!r}")

    def as_a(self, *kinds: type) -> Any:
        """The value, after checking that it has one of these types. A bool is not a number."""
        if not isinstance(self.value, kinds) or (isinstance(self.value, bool) and bool not in kinds):
            raise self.error(" or ".join(_TYPES[kind] for kind in kinds))
        return self.value

    def one_of(self, known: Mapping[str, Any] | tuple[str, ...]) -> str:
        if not isinstance(self.value, str) or self.value not in known:
            raise self.error(f"one of {', '.join(known)}")
        return self.value

    def items(self) -> dict[str, "_Node"]:
        """The values of a mapping, as nodes."""
        mapping = self.as_a(dict)
        return {str(key): _Node(self.file, f"{self.place}.{key}".lstrip("."), mapping[key]) for key in mapping}

    def elements(self) -> list["_Node"]:
        """The elements of a non-empty list, as nodes."""
        if not self.as_a(list):
            raise self.error("a list that is not empty")
        return [_Node(self.file, f"{self.place}[{number}]", each) for number, each in enumerate(self.value)]

    def keys(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, "_Node"]:
        """The values of a mapping that has all required keys, and no other keys than the optional ones."""
        items = self.items()
        place = self.place or "the file"
        unknown = [key for key in items if key not in (*required, *optional)]
        if unknown:
            raise ValueError(
                f"{self.file}: expected {place} to have keys among {', '.join((*required, *optional))}, "
                f'but got "{unknown[0]}"'
            )
        missing = [key for key in required if key not in items]
        if missing:
            raise ValueError(f'{self.file}: expected {place} to have a key "{missing[0]}", but it has none')
        return items


def _read(name: str, node: _Node) -> Experiment:
    parts = node.keys(("title", "source", "metrics", "groups", "scales"), ("picture",))
    metrics = tuple(each.one_of(METRICS) for each in parts["metrics"].elements())
    scales = {
        each: _scale(each, value) for each, value in parts["scales"].keys((), SCALES).items() if value.value is not None
    }
    if not scales:
        raise parts["scales"].error(f"some of {', '.join(SCALES)}")
    known = tuple({dataset: None for scale in scales.values() for dataset in scale.datasets})
    groups = {each: _group(each, value, known, metrics) for each, value in parts["groups"].items().items()}
    missing = {metric.split(".")[0] for metric in metrics}
    for scale in scales.values():
        if not missing <= scale.evaluation.keys():
            raise parts["scales"].items()[scale.name].items()["evaluation"].error(f"settings of {', '.join(missing)}")
    names = [f"{group.name}/{row}" for group in groups.values() for row in group.rows]
    for scale in scales.values():
        for pattern in (each for stage in scale.stages for each in stage.patterns):
            if not any(fnmatchcase(name, pattern) for name in names):
                stages = parts["scales"].items()[scale.name].items()["stages"]
                raise stages.error(f'patterns that match some of {", ".join(names)}, and "{pattern}" does')
    picture = _picture(parts["picture"], groups) if "picture" in parts else None
    return Experiment(name, parts["title"].as_a(str), parts["source"].as_a(str), metrics, groups, scales, picture)


def _picture(node: _Node, groups: Mapping[str, Group]) -> Picture:
    parts = node.keys(("setting", "label", "lines"))
    rows = [row for group in groups.values() for row in group.rows]
    lines = {name: pattern.as_a(str) for name, pattern in parts["lines"].items().items()}
    for name, pattern in lines.items():
        if not any(fnmatchcase(row, pattern) for row in rows):
            raise parts["lines"].items()[name].error(f"a pattern that matches some of {', '.join(rows)}")
    return Picture(parts["setting"].as_a(str), parts["label"].as_a(str), lines)


def _group(name: str, node: _Node, datasets: tuple[str, ...], metrics: tuple[str, ...]) -> Group:
    parts = node.keys(("title", "baseline", "datasets", "rows"), ("set",))
    names = tuple(each.one_of(datasets) for each in parts["datasets"].elements())
    rows = parts["rows"].items()
    baseline = parts["baseline"].one_of(rows)
    read = {each: _row(each, value, baseline, tuple(rows), names, metrics) for each, value in rows.items()}
    return Group(name, parts["title"].as_a(str), names, _settings(parts.get("set")), read)


def _row(
    name: str, node: _Node, baseline: str, rows: tuple[str, ...], datasets: tuple[str, ...], metrics: tuple[str, ...]
) -> Row:
    parts = node.keys(("title",), ("set", "at", "baseline", "paper"))
    paper: dict[str, dict[str, float]] = {}
    for dataset, figures in (parts["paper"].items() if "paper" in parts else {}).items():
        _Node(figures.file, figures.place, dataset).one_of(datasets)
        read = figures.keys((), metrics)
        paper[dataset] = {metric: float(figure.as_a(int, float)) for metric, figure in read.items()}
    at = parts["at"].keys((), SCALES) if "at" in parts else {}
    return Row(
        name,
        parts["title"].as_a(str),
        _settings(parts.get("set")),
        {scale: _settings(value) for scale, value in at.items()},
        parts["baseline"].one_of(rows) if "baseline" in parts else baseline,
        paper,
    )


def _scale(name: str, node: _Node) -> Scale:
    parts = node.keys(("recipe", "seeds", "datasets", "evaluation"), ("set", "stages"))
    datasets = parts["datasets"].items()
    try:
        recipe = load_recipe(parts["recipe"].as_a(str))
    except FileNotFoundError as error:
        raise ValueError(f"{node.file}: {parts['recipe'].place}: {error}") from error
    return Scale(
        name,
        recipe,
        _settings(parts.get("set")),
        tuple(each.as_a(int) for each in parts["seeds"].elements()),
        _stages(parts.get("stages")),
        {each: _dataset(each, value, tuple(datasets)) for each, value in datasets.items()},
        _evaluation(parts["evaluation"]),
    )


def _stages(node: _Node | None) -> tuple[Stage, ...]:
    if node is None:
        return (Stage(),)
    return tuple(Stage(tuple(pattern.as_a(str) for pattern in each.elements())) for each in node.elements())


def _dataset(name: str, node: _Node, names: tuple[str, ...]) -> Dataset:
    parts = node.keys(("title", "data"), ("train_rows", "evaluate"))
    if "name" not in parts["data"].items():
        raise parts["data"].error("a mapping with the dataset's `name`")
    rows = parts["train_rows"].as_a(int) if "train_rows" in parts else None
    if rows is not None and (rows < 1 or "root" not in parts["data"].value):
        raise parts["train_rows"].error("at least 1 row of the file that `data.root` names")
    evaluate = parts["evaluate"].one_of(names) if "evaluate" in parts else name
    return Dataset(name, parts["title"].as_a(str), parts["data"].as_a(dict), rows, evaluate)


def _evaluation(node: _Node) -> dict[str, Settings]:
    from hex_ssl.train.evaluate.settings import KNNSettings, ProbeSettings

    protocols: dict[str, Any] = {"knn": KNNSettings, "probe": ProbeSettings}
    found = {}
    for by, value in node.keys((), tuple(protocols)).items():
        try:
            protocols[by](**value.as_a(dict))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{node.file}: {value.place}: {error}") from error
        found[by] = value.value
    return found


def _settings(node: _Node | None) -> Settings:
    return {} if node is None else {key: value.as_a(dict) for key, value in node.items().items()}
