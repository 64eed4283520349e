"""k-NN and linear probe against plain loops."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import Digits, PretrainData
from hex_ssl.train.evaluate import (
    Features,
    Protocol,
    evaluate_backbone,
    extract_features,
    knn_accuracy,
    knn_predict,
    linear_probe_accuracy,
)


def blobs(count: int, seed: int, classes: int = 3) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.eye(8)[:classes]
    return Features(centres[labels] + 0.5 * torch.randn(count, 8, generator=generator), labels)


def knn_by_loops(bank: Features, query: torch.Tensor, k: int, temperature: float) -> int:
    cosines = [float(query.double() @ row.double() / (query.double().norm() * row.double().norm())) for row in bank.h]
    nearest = sorted(range(len(cosines)), key=lambda index: -cosines[index])[:k]
    votes = [0.0] * 3
    for index in nearest:
        votes[int(bank.labels[index])] += math.exp(cosines[index] / temperature)
    return votes.index(max(votes))


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (500, 1.0)])
def test_knn_equals_plain_loops_whatever_the_block(k: int, temperature: float) -> None:
    bank, test = blobs(90, seed=0), blobs(31, seed=1)
    expected = [knn_by_loops(bank, query, k, temperature) for query in test.h]
    for block in (7, 4096):
        assert knn_predict(bank, test.h, k, temperature, block).tolist() == expected
    share = sum(int(a == b) for a, b in zip(expected, test.labels.tolist(), strict=True)) / 31
    assert knn_accuracy(bank, test, k, temperature) == pytest.approx(share)


def test_knn_ignores_scale_and_survives_small_temperatures() -> None:
    bank, test = blobs(90, seed=0), blobs(31, seed=1)
    scaled = Features(bank.h * 1e4, bank.labels)
    assert torch.equal(knn_predict(bank, test.h), knn_predict(scaled, test.h * 1e-4))
    assert torch.equal(knn_predict(bank, test.h, temperature=1e-4), knn_predict(bank, test.h, k=1))


def test_knn_with_classes_that_the_test_set_lacks() -> None:
    bank = Features(torch.eye(3), torch.tensor([0, 7, 2]))
    assert knn_predict(bank, torch.eye(3)[1:2], k=1).tolist() == [7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "expected `k` to be at least 1, but got 0"),
        ({"temperature": 0.0}, "expected `temperature` to be above 0, but got 0.0"),
        ({"queries": torch.zeros(2, 7)}, r"to have shape \[M, 8\] like the bank, but got \[2, 7\]"),
    ],
)
def test_knn_names_a_bad_argument(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_predict(**{"bank": blobs(9, seed=0), "queries": torch.zeros(2, 8), **arguments})  # type: ignore[arg-type]


def test_probe_is_logistic_regression_on_standardised_features() -> None:
    train, test = blobs(120, seed=2), blobs(60, seed=3)
    h = train.h.double()
    mean, deviation = h.mean(dim=0), h.std(dim=0, correction=0)
    probe = LogisticRegression(max_iter=2000).fit(((h - mean) / deviation).numpy(), train.labels.numpy())
    expected = probe.score(((test.h.double() - mean) / deviation).numpy(), test.labels.numpy())
    assert linear_probe_accuracy(train, test) == pytest.approx(expected)


def test_probe_with_few_labels_is_seeded_and_averaged() -> None:
    train, test = blobs(120, seed=2), blobs(60, seed=3)
    once = [linear_probe_accuracy(train, test, labels_per_class=2, draws=4, seed=9) for _ in range(2)]
    assert once[0] == once[1]
    assert once[0] < linear_probe_accuracy(train, test)


def test_probe_with_more_labels_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="to be at most 3, the size of class 0, but got 4"):
        linear_probe_accuracy(blobs(9, seed=0), blobs(9, seed=0), labels_per_class=4)


def test_features_are_in_order_in_evaluation_mode_and_the_mode_is_restored() -> None:
    digits = Digits("test")
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    h, labels = extract_features(backbone, digits, batch_size=100)
    assert backbone.training
    assert torch.equal(labels, digits.labels)
    assert torch.equal(h, backbone.eval()(digits.images))
    assert not h.requires_grad


def test_representation_that_is_not_finite_is_named() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            h = self.scale * images.flatten(1)
            return torch.where(h.sum(dim=1, keepdim=True) > 24.9, torch.nan, h)

    digits = Digits("test")
    brightest = digits.images.flatten(1).sum(dim=1) > 24.9
    first = int(brightest.nonzero()[0])
    with pytest.raises(
        ValueError, match=rf"but that of image {first} has NaN or infinity \({int(brightest.sum())} of 360\)"
    ):
        extract_features(Broken(), digits, batch_size=50)


def test_result_carries_its_protocol() -> None:
    data = PretrainData(DataConfig(), seed=0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    figures = evaluate_backbone(backbone, data, Protocol(k=5, labels_per_class=3, draws=2))
    assert set(figures) == {"knn_accuracy", "probe_accuracy_few_labels", "probe_accuracy", "protocol"}
    assert figures["protocol"]["k"] == 5
    assert (figures["protocol"]["train_images"], figures["protocol"]["test_images"]) == (1437, 360)
    assert "k = 5" in figures["protocol"]["description"]
