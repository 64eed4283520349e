"""The documentation's results equal those of the finished runs that are kept with them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benches.results_page import KEPT, OURS, PAPERS, plan_of, pooled, seconds, section
from tests.train.reproduce.test_table import numbers

PAGE = (Path(__file__).parents[3] / "docs/results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("experiment", [OURS, *PAPERS])
def test_tables_are_those_of_the_kept_results(experiment: str) -> None:
    assert f"\n{section(experiment)}\n" in PAGE


def test_each_kept_result_is_in_a_table() -> None:
    planned = {job.key for experiment in (OURS, *PAPERS) for job in plan_of(experiment).jobs}
    assert planned == {path.stem for path in KEPT.glob("*.json")}


@pytest.mark.parametrize("sentence", [pooled, seconds])
def test_sentences_are_in_the_page(sentence: Callable[[], str]) -> None:
    assert sentence() in " ".join(PAGE.split())


def test_differences_beyond_three_standard_errors_are_counted() -> None:
    differences = re.findall(r"([+-]\d+\.\d\d) \+- (\d+\.\d\d)", section(OURS))
    beyond = [each for each in differences if abs(float(each[0])) > 3 * float(each[1])]
    assert f"Of the {len(differences)} differences of our own tables {len(beyond)} do" in " ".join(PAGE.split())


def test_seconds_are_those_of_the_kept_results() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in KEPT.glob("*.json")]
    for images in (20_000, 4_000):
        took = [each["seconds"]["pretraining"] for each in records if each["budget"]["training_images"] == images]
        assert re.search(rf"{min(took)} to {max(took)} s .*with {images:,}", seconds())


def test_sentence_on_the_defaults_is_numpys() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in KEPT.glob("*.json")]
    defaults = {"base": "own", "threshold_arguments": {}, "formulation": "importance", "beta": 1.0, "tau_plus": 0.1}
    found: dict[str, dict[tuple[object, ...], list[float]]] = {"off": {}, "adaptive": {}}
    for record in records:
        config = record["config"]
        loss = config["loss"]
        if loss["hex"] in found and defaults.items() <= loss.items() and record["budget"]["training_images"] == 20_000:
            setting = (config["data"]["batch_size"], loss["temperature"], record["seed"])
            metrics = ("probe.top1", "knn.top1", "knn.superclass_top1")
            found[loss["hex"]][setting] = [record["metrics"][name] for name in metrics]
    pairs = sorted(found["off"].keys() & found["adaptive"].keys())
    differences = 100 * np.array([np.subtract(found["adaptive"][each], found["off"][each]) for each in pairs])
    errors = differences.std(axis=0, ddof=1) / np.sqrt(len(pairs))
    sentence = pooled()
    assert f"{len(pairs)} pairs at equal seed" in sentence
    expected = np.stack([differences.mean(axis=0), errors], axis=1).ravel()
    np.testing.assert_allclose(numbers(sentence.partition("differs")[2]), expected, atol=0.0051)
