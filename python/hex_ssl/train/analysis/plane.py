"""Projection of features to two dimensions."""

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hex_ssl.train.analysis.collapse import unit_rows
from hex_ssl.train.extras import train_extra

PlaneMethod = Literal["umap", "pca"]


def to_plane(features: ArrayLike, method: PlaneMethod = "umap", seed: int = 0) -> NDArray[np.float64]:
    """Projects the directions of the rows to two dimensions.

    Args:
        features: [N, D], no row all zeros.
        method: "umap" (umap-learn's defaults, cosine distance) or "pca" (the first two principal components).
        seed: Seed of UMAP. Equal seeds give equal coordinates.

    Returns:
        [N, 2], centred and scaled so that the longer side is [-1, 1]. The aspect ratio is kept.

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: A row has no direction, or there are fewer than 3 rows.

    Source: McInnes et al. 2018 (arXiv 1802.03426); HEX supplement, Figures 10 and 14.

    Example:
        >>> plane = to_plane([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], method="pca")
        >>> plane.shape, float(abs(plane).max())
        ((4, 2), 1.0)
    """
    unit = unit_rows(features)
    if len(unit) < 3:
        raise ValueError(f"expected at least 3 rows to project, but got {len(unit)}")
    found = _umap(unit, seed) if method == "umap" else _pca(unit)
    low, high = found.min(axis=0), found.max(axis=0)
    side = float((high - low).max()) or 1.0
    return (found - (low + high) / 2) / (side / 2)


def _pca(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = unit - unit.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    # The sign of an axis is arbitrary: its largest component is made positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    plane = centred @ axes
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


def _umap(unit: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    with warnings.catch_warnings(), train_extra():
        warnings.simplefilter("ignore")  # from numba, and from UMAP about seeds and small sets
        from umap import UMAP  # type: ignore[import-untyped]

        neighbours = min(15, len(unit) - 1)
        few = {"init": "random"} if len(unit) <= neighbours + 2 else {}  # spectral initialisation needs more rows
        reducer: Any = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1, **few)
        plane: NDArray[np.float64] = np.asarray(reducer.fit_transform(unit.astype(np.float32)), np.float64)
    return plane
