"""Effective rank, and dimensional collapse within superclasses compared with that of the whole."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-7
"""The constant in RankMe's definition."""

DRAWS = 5
"""Number of random subsets of each size, over which the rank of the whole is averaged."""


def effective_rank(features: ArrayLike) -> float:
    """RankMe: the number of dimensions that the features use, from 1 (only one) to min(N, D) (all equally).

        RankMe = exp(-sum_k p_k log p_k),   p_k = sigma_k / sum_l sigma_l + 1e-7

    where sigma are the singular values of `features`, which are neither centred nor normalised.

    Args:
        features: [N, D], finite.

    Returns:
        The effective rank.

    Raises:
        ValueError: The shape is not [N, D], or a number is not finite.

    Source: Garrido et al. 2023, "RankMe" (arXiv 2210.02885), equation 1; the entropy-based rank is Roy and Vetterli's
    (2007).

    Example:
        >>> round(effective_rank(np.eye(8)), 3), round(effective_rank(np.ones((5, 3))), 3)
        (8.0, 1.0)
    """
    spectrum = singular_values(features)
    shares = spectrum / max(spectrum.sum(), np.finfo(np.float64).tiny) + EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def singular_values(features: ArrayLike) -> NDArray[np.float64]:
    """The min(N, D) singular values of [N, D] in descending order.

    They are computed from the smaller Gram matrix in double precision, with errors of about 1e-8 of the largest.

    Raises:
        ValueError: The shape is not [N, D], or a number is not finite.

    Example:
        >>> singular_values([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]).round(6).tolist()
        [4.0, 3.0]
    """
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"expected `features` to have shape [N, D], but got {list(rows.shape)}")
    if not np.isfinite(rows).all():
        raise ValueError("expected `features` to be finite, but got a NaN or an infinity")
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    return np.sqrt(np.linalg.eigvalsh(gram)[::-1].clip(min=0.0))


class GroupRank(NamedTuple):
    """The effective rank of one group, compared with that of the whole.

    Attributes:
        group: The group's label.
        rows: Number of rows of the group.
        local: Effective rank of its rows.
        overall: Mean effective rank of as many rows drawn from all groups.
    """

    group: int
    rows: int
    local: float
    overall: float

    @property
    def ratio(self) -> float:
        """`local` / `overall`: 1 for a group spread over as many dimensions as the whole, less if it collapsed."""
        return self.local / self.overall


def group_ranks(features: ArrayLike, groups: ArrayLike, seed: int = 0) -> list[GroupRank]:
    """The effective rank of each group's rows, compared with that of as many rows of all groups.

    Rows are scaled to length 1, as in the losses, and each set is centred at its mean, so that the common direction of
    a group is not counted as one of its dimensions. A rank cannot exceed the number of rows. Therefore the whole is
    measured on `DRAWS` random subsets of the group's size.

    The paper's premise is that classes collapse towards each other within their superclass. `ratio` is then below 1.

    Args:
        features: [N, D], finite, no row all zeros.
        groups: Integers [N], such as superclasses.
        seed: Seed of the subsets.

    Returns:
        One entry for each group of at least 3 rows, in the order of their labels.

    Raises:
        ValueError: A shape is wrong, or a row has no direction.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((300, 16))
        >>> rows[:100, 4:] = 0.0  # the first group uses 4 dimensions only
        >>> [round(each.ratio, 1) for each in group_ranks(rows, np.repeat([0, 1, 2], 100))]
        [0.3, 1.0, 1.0]
    """
    unit = unit_rows(features)
    labels = np.asarray(groups)
    if labels.shape != (len(unit),):
        raise ValueError(f"expected `groups` to have shape [{len(unit)}], but got {list(labels.shape)}")
    generator = np.random.default_rng(seed)
    overall: dict[int, float] = {}
    found = []
    for group in np.unique(labels):
        rows = unit[labels == group]
        if len(rows) < 3:
            continue
        if len(rows) not in overall:
            draws = [generator.choice(len(unit), len(rows), replace=False) for _ in range(DRAWS)]
            overall[len(rows)] = float(np.mean([_centred_rank(unit[draw]) for draw in draws]))
        found.append(GroupRank(int(group), len(rows), _centred_rank(rows), overall[len(rows)]))
    return found


def unit_rows(features: ArrayLike) -> NDArray[np.float64]:
    """Rows scaled to length 1, in double precision.

    Raises:
        ValueError: The shape is not [N, D], or a row is all zeros or not finite.
    """
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"expected `features` to have shape [N, D], but got {list(rows.shape)}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0.0)))
    if len(bad):
        raise ValueError(f"expected rows of finite numbers, not all zero, but row {bad[0]} of `features` is not")
    return rows / lengths


def _centred_rank(rows: NDArray[np.float64]) -> float:
    return effective_rank(rows - rows.mean(axis=0))
