"""Means, deviations and paired differences, against NumPy."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from hex_ssl.reproduce.experiment import load_experiment
from hex_ssl.reproduce.plan import make_plan
from hex_ssl.reproduce.settings import ReproduceConfig
from hex_ssl.reproduce.table import mean_deviation, paired_difference, write_table


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


def test_table_says_what_is_missing(experiment_file: Path) -> None:
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
