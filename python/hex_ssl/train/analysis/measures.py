"""The measures of one snapshot."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hex_ssl.statistics import GROUPS, SimilarityStatistics, similarity_statistics
from hex_ssl.train.analysis.collapse import GroupRank, effective_rank, group_ranks
from hex_ssl.train.analysis.snapshots import Snapshot, Subject

Record = dict[str, float | int | str | None]
"""One line of a table."""

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Number of neighbours and temperature of the k-NN within the set."""

COLUMNS = {
    "threshold": "threshold epsilon: the quantile of each image's similarities, averaged over the images (Figure 8)",
    "above": "mean number of images above it (Figure 9)",
    **{f"above_{group}": f"how many of these are {group} negatives, if there are such pairs" for group in GROUPS},
    **{f"{group}_similarity": f"mean cosine with {group} negatives (Figure 12)" for group in GROUPS},
    "ratio": "superclass_similarity / other_similarity (Figure 13), if the latter is above 0",
    "gap": "superclass_similarity - other_similarity",
    "knn_accuracy": f"leave-one-out k-NN within the set, k = {NEIGHBOURS}, T = {TEMPERATURE} (Figure 11)",
    "knn_superclass_accuracy": "the same for superclasses (Figure 11)",
    "effective_rank": "RankMe of all images",
    "local_rank": "mean effective rank within a group, centred, rows of length 1",
    "overall_rank": "the same for as many images drawn from all groups",
    "rank_ratio": "mean of local / overall: below 1 if groups have collapsed",
}
"""The measures and their descriptions."""


def measure(
    subject: Subject, snapshot: Snapshot, space: str, quantile: float, bins: int, seed: int
) -> tuple[Record, SimilarityStatistics, list[GroupRank]]:
    """Computes the measures of one space of a snapshot.

    Args:
        subject: The subject, for its labels.
        snapshot: The snapshot, for its features.
        space: The space of the features.
        quantile: Quantile of the threshold.
        bins: Number of bins of the histograms.
        seed: Seed of the random subsets that ranks are compared with.

    Returns:
        The measures of `COLUMNS`, None for those that do not exist; the statistics of the similarities; and the ranks
        within superclasses, or within classes if there are no superclasses.

    Raises:
        ValueError: An image's features are all zero or not finite.
    """
    features = snapshot.spaces[space]
    check_features(subject, snapshot, space)
    found = similarity_statistics(features, subject.classes, subject.superclasses, quantile, bins=bins)
    groups = subject.classes if subject.superclasses is None else subject.superclasses
    ranks = [] if groups is None else group_ranks(features, groups, seed)
    means, above = found.mean(), found.mean_above()
    record: Record = {"epoch": snapshot.epoch, "space": space, "images": len(features), "dims": features.shape[1]}
    figures: dict[str, float | None] = {
        "threshold": found.threshold,
        "above": sum(above.values()),
        **{f"above_{group}": value if _is_number(means[group]) else None for group, value in above.items()},
        **{f"{group}_similarity": value for group, value in means.items()},
        "ratio": means["superclass"] / means["other"] if means["other"] > 0 else None,
        "gap": means["superclass"] - means["other"],
        "knn_accuracy": knn_within(features, subject.classes),
        "knn_superclass_accuracy": knn_within(features, subject.superclasses),
        "effective_rank": effective_rank(features),
        "local_rank": _mean([each.local for each in ranks]),
        "overall_rank": _mean([each.overall for each in ranks]),
        "rank_ratio": _mean([each.ratio for each in ranks]),
    }
    record.update({name: figures[name] if _is_number(figures[name]) else None for name in COLUMNS})
    return record, found, ranks


def check_features(subject: Subject, snapshot: Snapshot, space: str) -> None:
    """Checks that the features of each image have a direction.

    Raises:
        ValueError: An image's features are all zero or not finite.
    """
    features = snapshot.spaces[space]
    bad = np.flatnonzero(~(np.isfinite(features).all(axis=1) & features.any(axis=1)))
    if len(bad):
        what = "not finite" if features[bad[0]].any() else "all zero"
        at = "" if snapshot.epoch is None else f" at epoch {snapshot.epoch}"
        more = "" if len(bad) == 1 else f", and {len(bad) - 1} more rows are wrong too"
        raise ValueError(
            f'expected the features of each image to be finite and not all zero, but in the space "{space}" of '
            f"{subject.name}{at} row {bad[0]} is {what}{more}"
        )


@torch.no_grad()
def knn_within(features: NDArray[Any], labels: NDArray[np.int64] | None, block: int = 1024) -> float | None:
    """Leave-one-out k-NN accuracy: each row is classified by the other rows that are most similar to it.

    The votes are exp(cos / T), as in `hex_ssl.train.evaluate.knn_predict`.

    Args:
        features: [N, D].
        labels: [N], or None.
        block: Number of rows at a time.

    Returns:
        The accuracy, in [0, 1], or None without labels.

    Example:
        >>> knn_within(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), np.array([0, 0, 1, 1]))
        1.0
    """
    if labels is None:
        return None
    unit = torch.nn.functional.normalize(torch.from_numpy(np.array(features, np.float32)), dim=1)
    truth = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    classes = int(truth.max()) + 1
    correct = 0
    for start in range(0, len(unit), block):
        similarities = unit[start : start + block] @ unit.T
        rows = torch.arange(len(similarities))
        similarities[rows, start + rows] = -torch.inf
        nearest, indices = similarities.topk(min(NEIGHBOURS, len(unit) - 1), dim=1)
        votes = ((nearest - nearest[:, :1]) / TEMPERATURE).exp()
        scores = torch.zeros(len(rows), classes).scatter_add_(1, truth[indices], votes)
        correct += int((scores.argmax(dim=1) == truth[start : start + block]).sum())
    return correct / len(unit)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _is_number(value: float | None) -> bool:
    return value is not None and bool(np.isfinite(value))
