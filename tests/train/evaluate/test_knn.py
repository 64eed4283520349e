"""k-NN against scikit-learn's on the same features."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from hex_ssl.train.evaluate import Features, knn_accuracies, knn_predict, knn_scores, nearest_neighbours
from hex_ssl.train.evaluate import knn as module

CLASSES = 8


def features(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(99))
    h = 5.0 + centres[labels] + 1.5 * torch.randn(count, 16, generator=generator)
    return Features(h.to(dtype), labels)


def reference(bank: Features, queries: Tensor, k: int, temperature: float, distance: str) -> np.ndarray:
    """scikit-learn's fraction of the votes for each class."""

    def votes(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature) if distance == "cosine" else 1 / (distances + 1e-5)

    classifier = KNeighborsClassifier(k, weights=votes, metric=distance, algorithm="brute")
    shares: np.ndarray = classifier.fit(bank.h.numpy(), bank.labels.numpy()).predict_proba(queries.numpy())
    return shares


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (50, 1.0)])
def test_votes_are_those_of_scikit_learn_whatever_the_block(distance: Any, k: int, temperature: float) -> None:
    bank, test = features(400, seed=0), features(101, seed=1)
    expected = reference(bank, test.h, k, temperature, distance)
    for block in (1, 7, 4096, None):
        neighbours = nearest_neighbours(bank.h, test.h, k, distance, block)
        votes = knn_scores(neighbours, bank.labels, CLASSES, temperature, distance).exp()
        np.testing.assert_allclose(votes / votes.sum(dim=1, keepdim=True), expected, rtol=1e-9, atol=1e-14)
        predicted = knn_predict(bank, test.h, k, temperature, block, distance)
        assert predicted.tolist() == expected.argmax(axis=1).tolist()
    figures = knn_accuracies(neighbours, bank.labels, test.labels, CLASSES, None, k, temperature, distance)
    assert figures["top1"] == pytest.approx((expected.argmax(axis=1) == test.labels.numpy()).mean())


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_single_precision_finds_the_neighbours_of_double(distance: Any) -> None:
    bank, test = features(400, seed=0), features(101, seed=1)
    single = nearest_neighbours(bank.h.float(), test.h.float(), 10, distance)
    double = nearest_neighbours(bank.h.float().double(), test.h.float().double(), 10, distance)
    np.testing.assert_allclose(single.closeness, double.closeness, rtol=1e-5, atol=1e-6)
    assert (single.rows == double.rows).double().mean() > 0.99
    half = nearest_neighbours(bank.h.bfloat16(), test.h.bfloat16(), 10, distance)
    assert half.closeness.dtype == torch.float32


def test_a_distance_of_zero_is_found_far_from_the_origin() -> None:
    bank = 1000.0 + torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    neighbours = nearest_neighbours(bank, bank, k=1, distance="euclidean")
    assert neighbours.rows.flatten().tolist() == list(range(50))
    assert neighbours.closeness.abs().max() == 0.0


def test_superclass_votes_are_those_of_neighbours_with_superclass_labels() -> None:
    bank, test = features(300, seed=2), features(90, seed=3)
    superclasses = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    figures = knn_accuracies(
        nearest_neighbours(bank.h, test.h, 15), bank.labels, test.labels, CLASSES, superclasses, k=15
    )
    expected = knn_predict(Features(bank.h, superclasses[bank.labels]), test.h, k=15) == superclasses[test.labels]
    assert figures["superclass_top1"] == pytest.approx(float(expected.double().mean()))
    assert figures["superclass_top1"] > figures["top1"]


def test_fewer_neighbours_are_the_first_of_more() -> None:
    bank, test = features(300, seed=2), features(90, seed=3)
    many, few = nearest_neighbours(bank.h, test.h, 30), nearest_neighbours(bank.h, test.h, 4)
    arguments = (bank.labels, test.labels, CLASSES, None, 4)
    assert knn_accuracies(many, *arguments) == knn_accuracies(few, *arguments)


def test_test_classes_that_the_bank_lacks_count_as_wrong() -> None:
    neighbours = nearest_neighbours(torch.eye(4), torch.eye(4), k=4)
    figures = knn_accuracies(neighbours, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 6, 1]), classes=7, k=4)
    assert figures == {"top1": 0.75, "top5": 0.75}


def test_blocks_stay_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, test = features(256, seed=0, dtype=torch.float32), features(100, seed=1, dtype=torch.float32)
    whole = nearest_neighbours(bank.h, test.h, 5)
    rows: list[int] = []
    nearest = module._nearest_by_cosine

    def counted(bank: Tensor, queries: Tensor, k: int) -> module.Neighbours:
        rows.append(len(queries))
        return nearest(bank, queries, k)

    monkeypatch.setattr(module, "_nearest_by_cosine", counted)
    monkeypatch.setattr(module, "BLOCK_BYTES", 256 * 4 * 30)
    assert torch.equal(nearest_neighbours(bank.h, test.h, 5).rows, whole.rows)
    assert rows == [30, 30, 30, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "expected `k` to be at least 1, but got 0"),
        ({"distance": "manhattan"}, 'expected `distance` to be "cosine" or "euclidean", but got "manhattan"'),
        ({"queries": torch.zeros(2, 7)}, r"to have shape \[M, 16\] like the bank, but got \[2, 7\]"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(**{"bank": torch.zeros(9, 16), "queries": torch.zeros(2, 16), **arguments})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_row_that_is_not_finite_is_named(distance: Any, value: float) -> None:
    # A row with NaN would be the nearest neighbour of every query.
    broken = torch.rand(9, 4)
    broken[7, 2] = value
    for name, arguments in (("bank", (broken, torch.rand(3, 4))), ("queries", (torch.rand(3, 4), broken))):
        with pytest.raises(ValueError, match=rf"`{name}` to be finite, but row 7 has NaN or infinity \(1 of 9\)"):
            nearest_neighbours(*arguments, k=1, distance=distance)
