"""The results in the documentation equal those of the finished runs in docs/results.jsonl."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benches import results_page
from benches.results_page import KEPT, OURS, PAPERS, STEPS, geometry, lead, plan_of, pooled, repeated, seconds, section
from hex_ssl.train.reproduce.results import read_results, write_result
from tests.train.reproduce.test_table import numbers

PAGE = (Path(__file__).parents[3] / "docs/results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("experiment", [OURS, STEPS, *PAPERS])
def test_tables_are_those_of_the_kept_results(experiment: str) -> None:
    assert f"\n{section(experiment)}\n" in PAGE


def test_each_kept_result_is_in_a_table() -> None:
    planned = {job.key for experiment in (OURS, *PAPERS) for job in plan_of(experiment).jobs}
    more = {job.key for plan in (plan_of(STEPS), plan_of(OURS, "gpu")) for job in plan.jobs}
    assert planned <= read_results(KEPT).keys() <= planned | more


@pytest.mark.parametrize("sentence", [geometry, lead, pooled, repeated, seconds])
def test_sentences_are_in_the_page(sentence: Callable[[], str]) -> None:
    assert " ".join(sentence().split()) in " ".join(PAGE.split())


def test_differences_beyond_three_standard_errors_are_counted() -> None:
    differences = re.findall(r"([+-]\d+\.\d\d) \+- (\d+\.\d\d)", section(OURS))
    beyond = [each for each in differences if abs(float(each[0])) > 3 * float(each[1])]
    assert f"Of the {len(differences)} differences of our own tables {len(beyond)} do" in " ".join(PAGE.split())


def test_seconds_are_those_of_the_kept_results() -> None:
    records = [*read_results(KEPT).values()]
    for images in (20_000, 4_000):
        budgets = {"training_images": images, "epochs": 10}.items()
        took = [each["seconds"]["pretraining"] for each in records if budgets <= each["budget"].items()]
        assert re.search(rf"{min(took)} to {max(took)} s .*with {images:,}", seconds())


def test_sentence_on_the_defaults_is_numpys() -> None:
    records = [*read_results(KEPT).values()]
    defaults = {"base": "own", "threshold_arguments": {}, "formulation": "importance", "beta": 1.0, "tau_plus": 0.1}
    found: dict[str, dict[tuple[object, ...], list[float]]] = {"off": {}, "adaptive": {}}
    for record in (each for each in records if each["budget"]["epochs"] == 10):
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


def test_results_of_a_gpu_lead_the_page_when_there_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(OURS, "gpu")
    results = tmp_path / "results.jsonl"
    for job in plan.jobs[:4]:  # two seeds of SimCLR and of HEX
        with_hex, seed = job.config.loss.hex != "off", job.config.run.seed
        accuracy = 0.5 + 0.01 * seed + 0.02 * with_hex
        found = [None, 0.8] if with_hex else [None, None]
        history = {"threshold": found, "hierarchical_negatives": [0.0, 4.75 if with_hex else 0.0]}
        history |= {"knn.top1": {"0": 0.1, "2": accuracy}}
        metrics = {"knn.top1": accuracy, "probe.top1": accuracy, "knn.superclass_top1": accuracy}
        write_result(results, {"metrics": metrics, "history": history, **job.description})
    monkeypatch.setattr(results_page, "KEPT", results)
    text = lead()
    assert "| 0 | 10.00 +- 0.00 | 10.00 +- 0.00 | +0.00 +- 0.00 | - | - |" in text
    assert "| 2 | 50.50 +- 0.71 | 52.50 +- 0.71 | +2.00 +- 0.00 | 0.8 | 4.75 |" in text
    assert re.search(r"\| HEX, importance +\| 2 \| 52.50 \+- 0.71 \| \+2.00 \+- 0.00 ", text)
    assert "Not run yet" not in text
