"""Statistics of one evaluation of the loss, for logging, and similarity statistics of a whole set of embeddings."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hex_ssl._extension import _core

GROUPS = ("class", "superclass", "other")
"""The groups of a row's negatives: the same class, the same superclass but another class, and all others."""


class Statistics(NamedTuple):
    """Statistics of one evaluation: 0-d tensors on the inputs' device, float64 for float64 inputs, else float32.

    They have no gradient. On a GPU, only reading a value, for example with `float(...)`, waits for the device.

    Attributes:
        threshold: The threshold, as a cosine similarity. For the scale "minmax", the rescaled threshold, and for a
            margin over the positive, the margin. NaN if labels decide.
        hierarchical_negatives: Mean number of hierarchical negatives of an anchor, |H|
            (HEX supplement, S7.4.1, Figure 9).
        positive_similarity: Mean cosine similarity of anchors and their positives. NaN if there are no positives.
        negative_similarity: Mean cosine similarity of anchors and their negatives. NaN if there are no negatives.
        floor_fraction: Fraction of (anchor, positive) pairs whose reweighted term is at its floor. In these pairs the
            hierarchical negatives get no gradient.
        undefined_anchors: Number of anchors without a defined loss. They are left out of the mean.

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
    """Statistics of the cosine similarities of all pairs of N embeddings. The dimension of size 3 is `GROUPS`.

    Attributes:
        threshold: The threshold for `above`.
        quantiles: The quantile of each row of similarities, including the row's similarity with itself, float64 [N].
        negatives: The number of negatives of each row by group, int64 [N, 3].
        means: The mean similarity of each row with its negatives by group, float64 [N, 3]. NaN for an empty group.
        above: The number of negatives above the threshold by group, int64 [N, 3].
        histogram: The number of pairs by group, int64 [3, bins]. Each pair counts once. The bins have equal width and
            cover [-1, 1].
    """

    threshold: float
    quantiles: NDArray[np.float64]
    negatives: NDArray[np.int64]
    means: NDArray[np.float64]
    above: NDArray[np.int64]
    histogram: NDArray[np.int64]

    def mean(self) -> dict[str, float]:
        """The mean over the rows of their mean similarity with each group. NaN for a group that is always empty.

        Source: HEX supplement, S7.4.6, Figure 12.
        """
        has = self.negatives > 0
        sums = np.where(has, self.means, 0.0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return dict(zip(GROUPS, (sums / has.sum(axis=0)).tolist(), strict=True))

    def mean_above(self) -> dict[str, float]:
        """The mean number of negatives above the threshold in each group. S7.4.1, Figure 9, shows the sum."""
        return dict(zip(GROUPS, self.above.mean(axis=0).tolist(), strict=True))


def similarity_statistics(
    embeddings: ArrayLike,
    classes: ArrayLike | None = None,
    superclasses: ArrayLike | None = None,
    quantile: float = 0.99,
    threshold: float | None = None,
    bins: int = 200,
) -> SimilarityStatistics:
    """Computes statistics of the cosine similarities of all pairs of embeddings, without storing the matrix.

        c_ij = z_i . z_j / (|z_i| |z_j|),   epsilon = mean_i quantile_j c_ij,   above_i = #{j != i: c_ij > epsilon}

    with z -> `embeddings`, epsilon -> `threshold`. The means need no loop over pairs, because the sum of a row's
    similarities with a group is the product of the row with the sum of the group. The other statistics are computed in
    blocks of pairs, with as many threads as torch uses, in O(N * D) memory.

    Args:
        embeddings: The embeddings, [N, D], N >= 2, float32 or float64. Integers are converted to float64, other dtypes
            to float32. No row may be all zeros.
        classes: The class of each row, integers [N], at least 0. None: each row is its own class.
        superclasses: The superclass of each row, integers [N], at least 0. All rows of a class must have the same.
            None: each class is its own superclass.
        quantile: The quantile of each row of similarities, in [0, 1], with 'nearest' interpolation. The row includes
            its similarity with itself.
        threshold: The threshold for the counts. None: the mean of the quantiles, which is the adaptive threshold.
        bins: The number of bins of the histograms, from 1 to 10,000.

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
    return SimilarityStatistics(
        *_core.similarity_statistics(rows, own, above, quantile, threshold, bins, torch.get_num_threads())
    )


def _labels(name: str, given: ArrayLike | None) -> NDArray[np.int64] | None:
    if given is None:
        return None
    labels: NDArray[Any] = np.asarray(given)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"expected `{name}` to be integers [N], but got {labels.dtype} of shape {list(labels.shape)}")
    return labels.astype(np.int64)
