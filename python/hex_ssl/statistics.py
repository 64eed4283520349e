"""What one evaluation of the loss saw: the numbers to log; and what a whole set of embeddings looks like."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hex_ssl._extension import _core

GROUPS = ("class", "superclass", "other")
"""The negatives of a row by what they share with it: its class; its superclass but not its class; neither."""


class Statistics(NamedTuple):
    """Statistics of one evaluation: 0-d tensors on the inputs' device, float64 for float64 inputs, else float32.

    They carry no gradient, and reading one (`float(...)`) is the only synchronisation.

    Attributes:
        threshold: The threshold, a similarity (for scale "minmax" a rescaled one); NaN where labels decide.
        hierarchical_negatives: Mean number of hierarchical negatives of an anchor, |H|
            (HEX supplement, S7.4.1, Figure 9).
        positive_similarity: Mean cosine similarity of anchors and their positives.
        negative_similarity: Mean cosine similarity of anchors and their negatives.
        floor_fraction: Fraction of (anchor, positive) pairs whose reweighted term is at its floor:
            there the hierarchical negatives are not pushed away.
        undefined_anchors: Number of anchors without a defined loss, left out of the mean.

    Example:
        >>> import torch, hex_ssl
        >>> criterion = hex_ssl.HexLoss()
        >>> loss = criterion(torch.randn(16, 8), torch.randn(16, 8))
        >>> criterion.statistics.undefined_anchors
        tensor(0.)
    """

    threshold: Tensor
    hierarchical_negatives: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor
    floor_fraction: Tensor
    undefined_anchors: Tensor


class SimilarityStatistics(NamedTuple):
    """Cosine similarities of all pairs of N embeddings, in figures. Columns [.., 3] are `GROUPS`.

    Attributes:
        threshold: What `above` counts above.
        quantiles: float64 [N], the quantile of each row's similarities, its own included.
        negatives: int64 [N, 3], the other rows by group.
        means: float64 [N, 3], mean similarity of each row with those of a group; NaN where there are none.
        above: int64 [N, 3], how many of them are above the threshold.
        histogram: int64 [3, bins], all pairs of a group, each once, in bins of equal width from -1 to 1.
    """

    threshold: float
    quantiles: NDArray[np.float64]
    negatives: NDArray[np.int64]
    means: NDArray[np.float64]
    above: NDArray[np.int64]
    histogram: NDArray[np.int64]

    def mean(self) -> dict[str, float]:
        """The mean over the rows of their mean similarity with each group; NaN for a group that no row has.

        Source: HEX supplement, S7.4.6, Figure 12.
        """
        has = self.negatives > 0
        sums = np.where(has, self.means, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return dict(zip(GROUPS, (sums / has.sum(axis=0)).tolist(), strict=True))

    def mean_above(self) -> dict[str, float]:
        """The mean number of rows above the threshold in each group (S7.4.1, Figure 9: their sum)."""
        return dict(zip(GROUPS, self.above.mean(axis=0).tolist(), strict=True))


def similarity_statistics(
    embeddings: ArrayLike,
    classes: ArrayLike | None = None,
    superclasses: ArrayLike | None = None,
    quantile: float = 0.99,
    threshold: float | None = None,
    bins: int = 200,
) -> SimilarityStatistics:
    """Statistics of the cosine similarities of all pairs of a set of embeddings, never as a matrix.

        c_ij = z_i . z_j / (|z_i| |z_j|),   epsilon = mean_i quantile_j c_ij,   above_i = #{j != i: c_ij > epsilon}

    with z -> `embeddings`, epsilon -> `threshold`. Means look at no pair, since the sum of a row's similarities with a
    group is its product with the sum of the group; the rest streams through blocks of pairs on torch's threads, in
    O(N * D) memory.

    Args:
        embeddings: [N, D], N >= 2, float32 or float64 (others are converted to float32); no row all zeros.
        classes: Integers [N], at least 0. None: each row is of its own class.
        superclasses: Integers [N], at least 0, one for each class. None: each class is its own superclass.
        quantile: In [0, 1]; of each row's similarities, own included, 'nearest' interpolation.
        threshold: Count above it; None: above the mean of the rows' quantiles, the adaptive threshold.
        bins: Of the histograms, 1 to 10,000.

    Returns:
        The statistics.

    Raises:
        ValueError: A shape, label or number is out of its range, a class has two superclasses, or a row is all zeros or
            not finite.

    Source: HEX supplement, S7.4.1 (Figures 8 and 9) and S7.4.6 (Figures 12 and 13).

    Example:
        >>> z = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
        >>> found = similarity_statistics(z, classes=[0, 1, 2], superclasses=[0, 0, 1], quantile=0.5)
        >>> round(found.threshold, 3), found.above.sum(axis=1).tolist()
        (0.697, [1, 1, 0])
        >>> {name: round(value, 3) for name, value in found.mean().items()}
        {'class': nan, 'superclass': 0.995, 'other': 0.05}
    """
    rows = np.asarray(embeddings)
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64 if rows.dtype.kind in "iu" else np.float32)
    own, above = _labels("classes", classes), _labels("superclasses", superclasses)
    return SimilarityStatistics(*_core.similarity_statistics(rows, own, above, quantile, threshold, bins))


def _labels(name: str, given: ArrayLike | None) -> NDArray[np.int64] | None:
    if given is None:
        return None
    labels: NDArray[Any] = np.asarray(given)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"expected `{name}` to be integers [N], but got {labels.dtype} of shape {list(labels.shape)}")
    return labels.astype(np.int64)
