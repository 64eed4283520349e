"""The images most similar to an anchor in a random batch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hex_ssl.train.analysis.collapse import unit_rows


class Neighbours(NamedTuple):
    """Anchors, and the rows nearest to each in its own batch.

    Attributes:
        anchors: int64 [A], rows.
        nearest: int64 [A, k], rows, the most similar first.
        similarities: float64 [A, k], their cosine similarities.
    """

    anchors: NDArray[np.int64]
    nearest: NDArray[np.int64]
    similarities: NDArray[np.float64]


def nearest_in_batches(
    features: ArrayLike, anchors: int = 7, nearest: int = 5, batch_size: int = 128, seed: int = 0
) -> Neighbours:
    """Draws a batch for each anchor, and finds the rows in it that are most similar to the anchor.

    Args:
        features: [N, D], no row all zeros.
        anchors: A, the number of anchors.
        nearest: k, the number of nearest rows of each anchor.
        batch_size: Rows of a batch, including the anchor; all rows if there are fewer.
        seed: Seed of the batches, which depend only on it, on N and on `batch_size`.

    Returns:
        Rows and similarities.

    Raises:
        ValueError: `nearest` does not fit into a batch, or a row has no direction.

    Source: HEX supplement, S7.4.6, Figure 15.

    Example:
        >>> found = nearest_in_batches([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], anchors=1, nearest=2)
        >>> len(found.anchors), found.nearest.shape
        (1, (1, 2))
    """
    unit = unit_rows(features)
    size = min(batch_size, len(unit))
    if not 1 <= nearest < size:
        raise ValueError(f"expected `nearest` to be in [1, {size - 1}], but got {nearest}")
    generator = np.random.default_rng(seed)
    rows, found, similarities = [], [], []
    for _ in range(anchors):
        batch = generator.choice(len(unit), size, replace=False)
        cosines = unit[batch[1:]] @ unit[batch[0]]
        order = np.argsort(-cosines, kind="stable")[:nearest]
        rows.append(batch[0])
        found.append(batch[1:][order])
        similarities.append(cosines[order])
    return Neighbours(np.array(rows), np.array(found), np.array(similarities))
