"""Top-k accuracies against sorting, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from hex_ssl.train.evaluate.accuracy import class_accuracies, ranks, superclass_scores, top_accuracies

INF = math.inf


def test_ranks_are_places_in_the_sorted_order() -> None:
    scores = torch.randint(-3, 3, (200, 7), generator=torch.Generator().manual_seed(0)).double()  # with many ties
    labels = torch.arange(200) % 7
    expected = [
        sorted(range(7), key=lambda each: (-float(row[each]), each)).index(int(label))
        for row, label in zip(scores, labels, strict=True)
    ]
    assert ranks(scores, labels).tolist() == expected


def test_a_class_without_a_vote_comes_last() -> None:
    scores = torch.tensor([[0.0, -INF, -INF], [-INF, -INF, -INF]])
    assert ranks(scores, torch.tensor([1, 0])).tolist() == [3, 3]


def test_accuracies_equal_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(300, 12)), generator.integers(12, size=300)
    figures = class_accuracies(torch.from_numpy(scores), torch.from_numpy(labels))
    assert figures == {
        f"top{k}": pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(12))) for k in (1, 5)
    }


def test_superclasses_have_the_probabilities_of_their_classes() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(9), size=50)
    superclasses = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1])
    expected = np.stack([probabilities[:, superclasses == each].sum(axis=1) for each in range(3)], axis=1)
    scores = superclass_scores(torch.from_numpy(probabilities).log(), torch.from_numpy(superclasses))
    np.testing.assert_allclose(scores.exp(), expected, rtol=1e-12)
    labels = generator.integers(9, size=50)
    figures = class_accuracies(
        torch.from_numpy(probabilities).log(), torch.from_numpy(labels), torch.from_numpy(superclasses)
    )
    assert figures["superclass_top1"] == pytest.approx((expected.argmax(axis=1) == superclasses[labels]).mean())


def test_superclasses_of_logits_that_overflow_exp() -> None:
    scores = torch.tensor([[-2000.0, 3000.0, 0.0, -INF, -INF]], dtype=torch.float64)
    above = superclass_scores(scores, torch.tensor([0, 1, 0, 0, 2]))
    assert above[0, 1] == 3000.0
    assert above[0, 0] > -INF  # far below, but with votes
    assert above[0, 2] == -INF


@pytest.mark.parametrize(("classes", "names"), [(2, {"top1"}), (5, {"top1"}), (6, {"top1", "top5"})])
def test_top5_of_five_classes_is_left_out(classes: int, names: set[str]) -> None:
    assert set(top_accuracies(torch.tensor([0, 1]), classes)) == names
