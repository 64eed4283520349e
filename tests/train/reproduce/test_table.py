"""Means, deviations and paired differences, against NumPy."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hex_ssl.train.reproduce.experiment import load_experiment
from hex_ssl.train.reproduce.plan import make_plan
from hex_ssl.train.reproduce.settings import ReproduceConfig
from hex_ssl.train.reproduce.table import mean_deviation, paired_difference, write_table


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+\.\d+", text)]


def test_mean_and_deviation_are_numpys() -> None:
    values = np.random.default_rng(0).random(5)
    expected = [100 * values.mean(), 100 * values.std(ddof=1)]
    np.testing.assert_allclose(numbers(mean_deviation(values.tolist())), expected, atol=0.005)


def test_paired_difference_is_over_the_seeds_of_both() -> None:
    draw = np.random.default_rng(1).random((2, 4))
    values, baseline = dict(enumerate(draw[0].tolist())), dict(enumerate(draw[1].tolist()))
    differences = 100 * (draw[0, 1:] - draw[1, 1:])
    del baseline[0]
    expected = [differences.mean(), differences.std(ddof=1) / np.sqrt(3)]
    np.testing.assert_allclose(numbers(paired_difference(values, baseline)), expected, atol=0.005)
    assert paired_difference(values, {9: 0.5}) == "-"
    assert paired_difference({0: 0.5}, {0: 0.6}) == "-10.00"


def test_table_shows_what_is_missing(experiment_file: Path) -> None:
    plan = make_plan(load_experiment(experiment_file), ReproduceConfig("two", scale="smoke"))
    records: dict[str, dict[str, Any]] = {}
    for cell, keys in plan.cells.items():
        if cell.row == "simclr":
            records |= {key: {"metrics": {"knn.top1": 0.9 + 0.01 * seed}} for seed, key in keys.items()}
    text = write_table(plan, records)
    assert "| SimCLR | 2 | 90.50 +- 0.71 | -          | 90.50 |" in text
    assert "| HEX    | 0 | -             | -          | -     |" in text
    assert "| SimCLR too | 2 | 90.50 +- 0.71 |" in text
    assert "2 of 4 runs are done" in text
    assert "their figures mean nothing" in text
    assert "not to be compared" in text


def table_of(name: str, scale: Literal["smoke", "small", "paper"]) -> str:
    return write_table(make_plan(load_experiment(name), ReproduceConfig(name, scale)), {})


def test_the_papers_figures_on_datasets_that_the_scale_lacks_follow() -> None:
    text = table_of("table9", "smoke")
    whole = text[text.index("The paper's, on datasets that this scale lacks:") :]
    lines = {cells[1].strip(): numbers(line) for line in whole.splitlines() if len(cells := line.split("|")) > 1}
    assert lines["Flowers"] == [32.94, 59.22, 28.63, 55.88]
    assert list(lines)[2:] == ["Cars", "Flowers", "NABirds", "Caltech-101", "Dogs", "Pets", "Aircraft", "CUB-200-2011"]
    assert "NNCLR, linear top-1 | NNCLR, linear top-5 | NNCLR + HEX, linear top-1 |" in whole
    assert "that this scale lacks" not in table_of("table9", "paper")
    assert "that this scale lacks" not in table_of("table7", "smoke")


def test_notes_describe_images_and_protocols() -> None:
    text = table_of("cifar100", "small")
    assert (
        "- Images of CIFAR-100 (20,000 training images): trained on the training images of unlabelled.parquet; "
        "evaluated with the labels of the first 4,000 rows of labelled.parquet, "
        "tested on the other rows of labelled.parquet."
    ) in text
    assert (
        "- Images of CIFAR-100 (4,000 labelled images): trained on the first 4,000 rows of labelled.parquet; "
        "evaluated with their labels, tested on the other rows of labelled.parquet."
    ) in text
    assert "- Evaluated by linear probe: logistic regression on standardised features, C = 1, L-BFGS." in text
    assert "- Evaluated by k-NN: cosine, k = 20, votes exp(cos / T), T = 0.07." in text
    assert "The paper's figures" not in text


def test_notes_have_the_methods_learning_rate_and_the_metrics_protocols_alone() -> None:
    text = table_of("table9", "paper")
    assert "- Evaluated by linear probe: SGD on random crops and flips, learning rate 0.3, " in text
    assert "k-NN" not in text
    assert (
        "- Images of CUB-200-2011: trained on the 5,994 training images of cub; evaluated with their labels, "
        "tested on the 5,794 test images of cub."
    ) in text
    assert "trained on 30 % of the 2,000 training images of hierarchy" in table_of("table9", "smoke")
