"""The linear probe against plain loops and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from hex_ssl.train.evaluate import Features
from hex_ssl.train.evaluate.linear import logistic_scores, shuffled_batches, train_linear
from hex_ssl.train.evaluate.settings import ProbeSettings


def features(count: int, seed: int, classes: int = 4) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return Features(torch.eye(6)[labels] + 0.4 * torch.randn(count, 6, generator=generator), labels)


def sgd_by_loops(train: Features, classes: int, settings: ProbeSettings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Softmax regression by SGD with momentum, as PyTorch defines it, in NumPy and float64."""
    assert settings.learning_rate is not None
    h, labels = train.h.double().numpy(), train.labels.numpy()
    parameters = np.zeros((classes, h.shape[1] + 1))
    momentum = np.zeros_like(parameters)
    inputs, targets = np.c_[h, np.ones(len(h))], np.eye(classes)[labels]
    generator = torch.Generator().manual_seed(seed)
    batches = math.ceil(len(h) / settings.probe_batch_size)
    for epoch in range(settings.probe_epochs):
        passed = [epoch >= 0.6 * settings.probe_epochs, epoch >= 0.8 * settings.probe_epochs]
        rate = settings.learning_rate * 0.1 ** sum(passed)
        for rows in np.array_split(torch.randperm(len(h), generator=generator).numpy(), batches):
            logits = inputs[rows] @ parameters.T
            probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            gradient = (probabilities - targets[rows]).T @ inputs[rows] / len(rows)
            momentum = settings.momentum * momentum + gradient + settings.weight_decay * parameters
            parameters = parameters - rate * momentum
    return parameters[:, :-1], parameters[:, -1]


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_takes_the_steps_of_the_recipe(weight_decay: float) -> None:
    settings = ProbeSettings(
        solver="sgd", learning_rate=0.7, probe_epochs=10, probe_batch_size=16, weight_decay=weight_decay
    )
    train = features(50, seed=0)
    layer = train_linear(lambda epoch: train, 4, settings, torch.Generator().manual_seed(5))
    weight, bias = sgd_by_loops(train, 4, settings, seed=5)
    np.testing.assert_allclose(layer.weight.detach(), weight, atol=2e-5)
    np.testing.assert_allclose(layer.bias.detach(), bias, atol=2e-5)


def test_sgd_asks_for_the_features_of_each_epoch() -> None:
    asked: list[int] = []

    def images(epoch: int) -> Features:
        asked.append(epoch)
        return features(12, seed=epoch)

    settings = ProbeSettings(solver="sgd", learning_rate=0.1, probe_epochs=4)
    train_linear(images, 4, settings, torch.Generator())
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(257, 256, [129, 128]), (256, 256, [256]), (3, 256, [3])])
def test_batches_contain_every_image_and_none_is_tiny(count: int, batch_size: int, sizes: list[int]) -> None:
    batches = shuffled_batches(count, batch_size, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == sizes
    assert torch.cat(batches).sort().values.tolist() == list(range(count))


def test_logistic_scores_are_log_probabilities_with_nothing_for_classes_never_seen() -> None:
    train, test = features(80, seed=1), features(30, seed=2)
    train = Features(train.h, train.labels * 2)  # of classes 0, 2, 4, 6 out of 8
    scores = logistic_scores(train, test.h, classes=8, regularisation=0.3)
    mean, deviation = train.h.double().mean(dim=0), train.h.double().std(dim=0, correction=0)
    probe = LogisticRegression(C=0.3, max_iter=2000)
    probe.fit(((train.h.double() - mean) / deviation).numpy(), train.labels.numpy())
    expected = probe.predict_log_proba(((test.h.double() - mean) / deviation).numpy())
    np.testing.assert_allclose(scores[:, ::2], expected, rtol=1e-6, atol=1e-8)
    assert (scores[:, 1::2] == -math.inf).all()


def test_logistic_regression_needs_two_classes() -> None:
    with pytest.raises(ValueError, match="expected `train` to have at least 2 classes, but got 1"):
        logistic_scores(features(5, seed=0, classes=1), torch.zeros(1, 6), classes=3)


def test_sgd_needs_a_learning_rate() -> None:
    with pytest.raises(ValueError, match="expected `learning_rate` to be a number, but got None"):
        train_linear(lambda epoch: features(8, seed=0), 4, ProbeSettings(solver="sgd"), torch.Generator())
