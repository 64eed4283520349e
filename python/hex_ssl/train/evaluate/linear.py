"""The linear probe: one linear layer on frozen representations, by logistic regression or by SGD."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from hex_ssl.train.evaluate.features import Features
from hex_ssl.train.evaluate.settings import ProbeSettings
from hex_ssl.train.progress import followed, working

MILESTONES = (0.6, 0.8)
"""Fractions of the epochs after which SGD's learning rate is divided by 10. Source: solo-learn, scripts/linear."""


def linear_probe_accuracy(
    train: Features, test: Features, labels_per_class: int | None = None, draws: int = 1, seed: int = 0
) -> float:
    """Accuracy on `test` of a logistic regression trained on `train`.

    Features are standardised by the training images' mean and standard deviation. The regression has an L2 penalty with
    C = 1 and runs L-BFGS (scikit-learn's defaults) until it converges.

    Args:
        train: Representations [N, F] and labels.
        test: Representations [M, F] and labels.
        labels_per_class: Number of training images of each class, drawn at random. None uses all.
        draws: Number of probes on different draws, over which the accuracy is averaged. Without `labels_per_class`
            there is only one.
        seed: Seed of the draws, which are the same for every backbone.

    Returns:
        The mean accuracy, in [0, 1].

    Raises:
        ValueError: A class has fewer than `labels_per_class` images.

    Example:
        >>> import torch
        >>> features = Features(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> linear_probe_accuracy(features, features)
        1.0
    """
    h, labels = train.h.double().cpu().numpy(), train.labels.cpu().numpy()
    test_h, test_labels = test.h.double().cpu().numpy(), test.labels.cpu().numpy()
    generator = np.random.default_rng(seed)
    accuracies = []
    for _ in range(1 if labels_per_class is None else draws):
        chosen = _draw(labels, labels_per_class, generator)
        probe = _logistic(regularisation=1.0)
        accuracies.append(probe.fit(h[chosen], labels[chosen]).score(test_h, test_labels))
    return float(np.mean(accuracies))


def logistic_scores(train: Features, queries: Tensor, classes: int, regularisation: float = 1.0) -> Tensor:
    """Log-probabilities of a logistic regression, as in :func:`linear_probe_accuracy`.

    Args:
        train: Representations [N, F] and labels of at least two classes.
        queries: Representations [M, F].
        classes: C. Classes that `train` lacks get -inf.
        regularisation: C of scikit-learn, the inverse weight of the L2 penalty, above 0.

    Returns:
        float64 [M, C], on the CPU.

    Raises:
        ValueError: `train` has only one class.

    Example:
        >>> features = Features(torch.eye(4), torch.tensor([0, 0, 2, 2]))
        >>> logistic_scores(features, features.h, classes=3).argmax(dim=1)
        tensor([0, 0, 2, 2])
    """
    if len(train.labels.unique()) < 2:
        raise ValueError(f"expected `train` to have at least 2 classes, but got {len(train.labels.unique())}")
    with working(f"logistic regression of {len(train.labels):,} representations"):
        probe = _logistic(regularisation).fit(train.h.double().cpu().numpy(), train.labels.cpu().numpy())
    scores = torch.full((len(queries), classes), -math.inf, dtype=torch.float64)
    scores[:, torch.from_numpy(probe.classes_)] = torch.from_numpy(
        probe.predict_log_proba(queries.double().cpu().numpy())
    )
    return scores


def train_linear(
    features: Callable[[int], Features], classes: int, settings: ProbeSettings, generator: torch.Generator
) -> nn.Linear:
    """Trains one linear layer on frozen representations, by SGD on the cross-entropy.

    The layer starts at zero. Each epoch has the images in a new order, in batches whose sizes differ by at most one.

    Args:
        features: Function that returns the representations [N, F] and labels of an epoch, counted from 0.
        classes: C.
        settings: The protocol; `learning_rate` is a number.
        generator: Decides the order; on the CPU.

    Returns:
        A layer from F to C, on the features' device.

    Raises:
        ValueError: There is no learning rate.

    Source: solo-learn 9187ea3, main_linear.py and scripts/linear; there the layer starts at random.

    Example:
        >>> train = Features(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> settings = ProbeSettings(solver="sgd", learning_rate=1.0, probe_epochs=5)
        >>> layer = train_linear(lambda epoch: train, 2, settings, torch.Generator())
        >>> layer(train.h).argmax(dim=1)
        tensor([0, 0, 1, 1])
    """
    if settings.learning_rate is None:
        raise ValueError("expected `learning_rate` to be a number, but got None")
    h, labels = features(0)
    layer = nn.Linear(h.shape[1], classes, device=h.device)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(
        layer.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    milestones = [round(share * settings.probe_epochs) for share in MILESTONES]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    for epoch in followed(range(settings.probe_epochs), "epochs of the probe", settings.probe_epochs):
        h, labels = features(epoch) if epoch else (h, labels)
        for rows in shuffled_batches(len(labels), settings.probe_batch_size, generator):
            rows = rows.to(h.device)
            optimizer.zero_grad()
            F.cross_entropy(layer(h[rows].float()), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    return layer


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Rows in a random order, in batches whose sizes differ by at most one. No row is left out, and no batch is tiny.

    Args:
        count: Number of rows.
        batch_size: Maximum size of a batch.
        generator: Generator of the order.

    Example:
        >>> [len(batch) for batch in shuffled_batches(9, batch_size=4, generator=torch.Generator())]
        [3, 3, 3]
    """
    return torch.randperm(count, generator=generator).tensor_split(math.ceil(count / batch_size))


def _logistic(regularisation: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=regularisation, max_iter=2000))


def _draw(labels: NDArray[np.int64], per_class: int | None, generator: np.random.Generator) -> NDArray[np.int64]:
    if per_class is None:
        return np.arange(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < per_class:
        raise ValueError(
            f"expected `labels_per_class` to be at most {counts.min()}, the size of class "
            f"{classes[counts.argmin()]}, but got {per_class}"
        )
    drawn = [generator.choice(np.flatnonzero(labels == each), per_class, replace=False) for each in classes]
    return np.concatenate(drawn)
