"""Declared experiments: the packaged ones, and errors in others."""

from pathlib import Path

import pytest

from hex_ssl.train.data import dataset_card
from hex_ssl.train.reproduce.experiment import SCALES, check_losses, list_experiments, load_experiment
from tests.train.reproduce.conftest import EXPERIMENT


def test_the_papers_tables_and_ours_are_there() -> None:
    assert list_experiments() == ["cifar100", "figure7", "steps", "table10", "table11", "table7", "table8", "table9"]


@pytest.mark.parametrize("name", list_experiments())
def test_packaged_experiments_are_valid_at_all_scales(name: str) -> None:
    experiment = load_experiment(name)
    check_losses(experiment)
    assert {"smoke", "small"} <= set(experiment.scales) <= set(SCALES)
    for scale in experiment.scales:
        cells = [(group.name, row.name) for group, row, _ in experiment.cells(scale)]
        rows = {(group.name, row) for group in experiment.groups.values() for row in group.rows}
        assert set(cells) == rows or (name, scale) == ("cifar100", "gpu")


# The supplement's tables: by experiment each row and dataset with its top-1 and, where the table has it, its top-5.
TABLES: dict[str, dict[tuple[str, str], list[float]]] = {
    "table7": {
        ("cosine_95_65", "cifar100"): [66.63, 88.96],
        ("cosine_85_45", "cifar100"): [60.57, 86.37],
        ("step_95_65_10", "cifar100"): [66.20, 89.04],
        ("step_85_45_10", "cifar100"): [65.63, 88.18],
        ("step_95_65_05", "cifar100"): [66.23, 88.70],
        ("step_85_45_05", "cifar100"): [65.08, 88.29],
        ("adaptive", "cifar100"): [67.56, 90.02],
    },
    "table8": {("hcl", "cifar100"): [64.64], ("simclr", "cifar100"): [64.46], ("hex", "cifar100"): [67.56]},
    "table9": {
        ("nnclr", "cars"): [42.92, 71.99],
        ("nnclr_hex", "cars"): [46.60, 75.66],
        ("nnclr", "flowers"): [32.94, 59.22],
        ("nnclr_hex", "flowers"): [28.63, 55.88],
        ("nnclr", "nabirds"): [21.83, 45.19],
        ("nnclr_hex", "nabirds"): [22.26, 45.67],
        ("nnclr", "caltech101"): [72.60, 93.79],
        ("nnclr_hex", "caltech101"): [73.73, 94.35],
        ("nnclr", "dogs"): [42.06, 73.75],
        ("nnclr_hex", "dogs"): [47.40, 77.95],
        ("nnclr", "pets"): [47.78, 81.90],
        ("nnclr_hex", "pets"): [53.23, 85.88],
        ("nnclr", "aircraft"): [30.03, 57.82],
        ("nnclr_hex", "aircraft"): [29.07, 56.68],
        ("nnclr", "cub"): [19.49, 43.22],
        ("nnclr_hex", "cub"): [20.76, 47.36],
    },
    "table10": {
        ("simclr", "inaturalist2021"): [20.67, 38.64],
        ("hex", "inaturalist2021"): [22.01, 40.92],
        ("hex_supervised", "inaturalist2021"): [23.35, 42.94],
    },
    "table11": {("all4one", "imagenet"): [52.83, 78.29], ("all4one_hex", "imagenet"): [54.30, 79.09]},
}
MANUAL = {
    "cosine_95_65": ("cosine", 0.95, 0.65, None),
    "cosine_85_45": ("cosine", 0.85, 0.45, None),
    "step_95_65_10": ("step", 0.95, 0.65, 0.1),
    "step_85_45_10": ("step", 0.85, 0.45, 0.1),
    "step_95_65_05": ("step", 0.95, 0.65, 0.05),
    "step_85_45_05": ("step", 0.85, 0.45, 0.05),
}
"""Table 7's settings: type, dist_thres, dist_min, step_down."""


@pytest.mark.parametrize("name", TABLES)
def test_figures_of_the_paper_are_its_tables(name: str) -> None:
    (group,) = load_experiment(name).groups.values()
    found = {
        (row.name, dataset): [figures[metric] for metric in ("probe.top1", "probe.top5") if metric in figures]
        for row in group.rows.values()
        for dataset, figures in row.paper.items()
    }
    assert found == TABLES[name]


@pytest.mark.parametrize("row", MANUAL)
def test_manual_thresholds_are_table_7(row: str) -> None:
    loss = load_experiment("table7").config("paper", "thresholds", row, "cifar100").loss
    arguments = loss.threshold_arguments
    assert (loss.hex, arguments["start"], arguments["min"], arguments.get("step_down")) == MANUAL[row]


def test_datasets_have_the_classes_of_table_12() -> None:
    classes = {"cifar100": 100, "cifar10": 10, "tiny_imagenet": 200, "stl10": 10, "inaturalist2021": 10000}
    classes |= {"imagenet": 1000, "imagenet100": 100, "aircraft": 100, "flowers": 102, "cars": 196, "dogs": 120}
    classes |= {"pets": 37, "nabirds": 1011, "caltech101": 102, "food101": 101, "cub": 200}
    usual = {"nabirds": 555, "caltech101": 101}  # docs/migration.md has the reasons
    assert {name: dataset_card(name).classes for name in classes} == classes | usual


def test_scales_of_the_paper_are_its_recipe() -> None:
    adaptive = load_experiment("table7").config("paper", "thresholds", "adaptive", "cifar100")
    assert (adaptive.backbone.name, adaptive.run.epochs, adaptive.loss.warmup_epochs) == ("resnet50", 400, 10)
    step = load_experiment("table7").config("paper", "thresholds", "step_95_65_05", "cifar100")
    assert step.loss.threshold_arguments == {"start": 0.95, "min": 0.65, "step_down": 0.05, "epoch_step": 100}
    assert load_experiment("table11").config("paper", "methods", "all4one", "imagenet").run.epochs == 50


def test_rows_differ_only_in_their_settings() -> None:
    experiment = load_experiment("cifar100")
    budget = {"cifar100": set[tuple[int, float]](), "labelled": set[tuple[int, float]]()}
    for group, row, dataset in experiment.cells("small"):
        if group.name != "batches":
            config = experiment.config("small", group.name, row.name, dataset.name)
            budget[dataset.name].add((config.run.epochs, config.optimizer.learning_rate))
    assert [len(each) for each in budget.values()] == [1, 1]


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        (
            "titel: Two",
            "title: Two",
            'two.yaml: expected the file to have keys among title, source, .* but got "titel"',
        ),
        ("[knn.top2]", "[knn.top1]", r"two.yaml: metrics\[0\]: expected one of probe.top1, .* but got 'knn.top2'"),
        ("baseline: simclar", "baseline: simclr", "groups.losses.baseline: expected one of simclr, hex, but got"),
        ("datasets: [digit]", "datasets: [digits]", r"groups.losses.datasets\[0\]: expected one of digits"),
        ("knn.top1: high", "knn.top1: 90.5", "rows.simclr.paper.digits.knn.top1: expected a whole number or a number"),
        ("hex: stepp", "hex: step", "groups.losses.rows.hex, scale smoke, digits: expected `loss.hex` to be one of"),
        ("{epoch_stepp:", "{epoch_step:", "groups.losses.rows.hex, scale smoke: expected `loss.threshold_arguments`"),
        ("set: {los:", "set: {loss:", 'rows.hex, .* but got los; did you mean "loss"'),
        ("epochs: two", "epochs: 2", "expected `run.epochs` to be a whole number, but got 'two'"),
        ("epochs: 0", "epochs: 2", "expected `run.epochs` to be at least 1, but got 0"),
        ("recipe: quick/simclear", "recipe: quick/simclr", 'scales.smoke.recipe: .* did you mean "quick/simclr"'),
        ("knn: {neighbours: 5}", "knn: {}", "scales.smoke.evaluation.knn: .*neighbours"),
        ("probe: {}", "knn: {}", "scales.smoke.evaluation: expected settings of knn"),
        (
            "picture: {setting: run.name, label: a, lines: {A: hex}}\nscales:",
            "scales:",
            "rows.simclr: expected `picture.setting` to be a number in each run, but \"run.name\" is 'quick-simclr'",
        ),
        (
            "picture: {setting: run.epoch, label: a, lines: {A: hex}}\nscales:",
            "scales:",
            'expected `picture.setting` to be a number in each run, but "run.epoch" is None',
        ),
        (
            "picture: {setting: run.epochs, label: a, lines: {A: hax*}}\nscales:",
            "scales:",
            "picture.lines.A: expected a pattern that matches some of simclr, hex, same, but got 'hax\\*'",
        ),
        ("stages: [[hax]]\n    seeds: [0, 1]", "seeds: [0, 1]", 'smoke.stages: expected patterns .* and "hax" does'),
        ("stages: [hex]\n    seeds: [0, 1]", "seeds: [0, 1]", r"smoke.stages\[0\]: expected a list, but got 'hex'"),
        ("seeds: []", "seeds: [0, 1]", "scales.smoke.seeds: expected a list that is not empty, but got"),
        ("seeds: [true]", "seeds: [0, 1]", r"scales.smoke.seeds\[0\]: expected a whole number, but got True"),
    ],
)
def test_errors_name_their_place(wrong: str, right: str, expected: str, tmp_path: Path) -> None:
    assert right in EXPERIMENT
    path = tmp_path / "two.yaml"
    path.write_text(EXPERIMENT.replace(right, wrong))
    with pytest.raises(ValueError, match=expected):
        check_losses(load_experiment(path))


def test_unknown_experiment_suggests_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match='but got "tabel7"; did you mean "table7"?'):
        load_experiment("tabel7")
