"""The linear probe: logistic regression on frozen representations."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hex_ssl.evaluate.features import Features


def linear_probe_accuracy(
    train: Features, test: Features, labels_per_class: int | None = None, draws: int = 1, seed: int = 0
) -> float:
    """Accuracy on `test` of a logistic regression trained on `train`.

    Features are standardised by the training images' mean and deviation; L2 penalty with C = 1, L-BFGS
    (scikit-learn's defaults), to convergence.

    Args:
        train: Representations [N, F] and labels.
        test: Representations [M, F] and labels.
        labels_per_class: Train on so many images of each class, drawn at random; None for all.
        draws: Probes on different draws, whose mean accuracy is returned; 1 where all labels are used.
        seed: Decides the draws, the same for every backbone.

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
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        accuracies.append(probe.fit(h[chosen], labels[chosen]).score(test_h, test_labels))
    return float(np.mean(accuracies))


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
