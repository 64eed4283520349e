"""Experiments as declared: what is packaged, and what is wrong with others."""

from pathlib import Path

import pytest

from hex_ssl.reproduce.experiment import SCALES, check_losses, list_experiments, load_experiment
from tests.reproduce.conftest import EXPERIMENT


def test_the_papers_tables_and_ours_are_there() -> None:
    assert list_experiments() == ["cifar100", "figure7", "table10", "table11", "table7", "table8", "table9"]


@pytest.mark.parametrize("name", list_experiments())
def test_packaged_experiments_are_valid_at_all_scales(name: str) -> None:
    experiment = load_experiment(name)
    check_losses(experiment)
    assert set(experiment.scales) == set(SCALES)
    for scale in SCALES:
        cells = [(group.name, row.name) for group, row, _ in experiment.cells(scale)]
        assert set(cells) == {(group.name, row) for group in experiment.groups.values() for row in group.rows}


def test_scales_of_the_paper_are_its_recipe() -> None:
    adaptive = load_experiment("table7").config("paper", "thresholds", "adaptive", "cifar100")
    assert (adaptive.backbone.name, adaptive.run.epochs, adaptive.loss.warmup_epochs) == ("resnet50", 400, 10)
    step = load_experiment("table7").config("paper", "thresholds", "step_95_65_05", "cifar100")
    assert step.loss.threshold_arguments == {"start": 0.95, "min": 0.65, "step_down": 0.05, "epoch_step": 100}
    assert load_experiment("table11").config("paper", "methods", "all4one", "imagenet").run.epochs == 50


def test_rows_differ_in_what_they_say_alone() -> None:
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
        ("seeds: []", "seeds: [0, 1]", "scales.smoke.seeds: expected a list that is not empty, but got"),
        ("seeds: [true]", "seeds: [0, 1]", r"scales.smoke.seeds\[0\]: expected a whole number, but got True"),
    ],
)
def test_mistakes_are_named_with_their_place(wrong: str, right: str, expected: str, tmp_path: Path) -> None:
    assert right in EXPERIMENT
    path = tmp_path / "two.yaml"
    path.write_text(EXPERIMENT.replace(right, wrong))
    with pytest.raises(ValueError, match=expected):
        check_losses(load_experiment(path))


def test_unknown_experiment_suggests_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match='but got "tabel7"; did you mean "table7"?'):
        load_experiment("tabel7")
