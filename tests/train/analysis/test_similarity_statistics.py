"""The streaming statistics against the whole similarity matrix in NumPy, in double precision."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hex_ssl.statistics import GROUPS, SimilarityStatistics, similarity_statistics
from tests.train.analysis.conftest import CLASSES, clusters


def by_matrix(
    z: NDArray[np.floating], classes: NDArray[np.int64], superclasses: NDArray[np.int64], quantile: float, bins: int
) -> SimilarityStatistics:
    unit = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 1.0)
    quantiles = np.quantile(cosines, quantile, axis=1, method="nearest")
    threshold = float(quantiles.mean())
    same, near = (labels[:, None] == labels for labels in (classes, superclasses))
    masks = [same & ~np.eye(len(z), dtype=bool), near & ~same, ~near]
    negatives = np.stack([mask.sum(axis=1) for mask in masks], axis=1)
    sums = np.stack([np.where(mask, cosines, 0.0).sum(axis=1) for mask in masks], axis=1)
    means = np.divide(sums, negatives, out=np.full(sums.shape, np.nan), where=negatives > 0)
    above = np.stack([(mask & (cosines > threshold)).sum(axis=1) for mask in masks], axis=1)
    histogram = np.stack([np.histogram(cosines[np.triu(mask)], bins=bins, range=(-1, 1))[0] for mask in masks])
    return SimilarityStatistics(threshold, quantiles, negatives, means, above, histogram)


@pytest.mark.parametrize("rows", [7, 128, 391])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.99, 1.0])
def test_equals_the_matrix(rows: int, quantile: float) -> None:
    z = clusters(rows).astype(np.float64)
    classes = np.arange(rows) % CLASSES
    found = similarity_statistics(z, classes, classes // 2, quantile, bins=31)
    expected = by_matrix(z, classes, classes // 2, quantile, bins=31)
    for name in ("threshold", "quantiles", "means"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)
    for name in ("negatives", "above", "histogram"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_single_precision_is_near_the_matrix(dtype: type) -> None:
    z = clusters(300, dims=40).astype(dtype)
    classes = np.arange(300) % CLASSES
    found = similarity_statistics(z, classes, classes // 2)
    expected = by_matrix(z, classes, classes // 2, 0.99, 200)
    np.testing.assert_allclose(found.quantiles, expected.quantiles, atol=1e-6)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-6)
    np.testing.assert_allclose(found.above.sum(), expected.above.sum(), rtol=2e-3)


def test_neither_strides_nor_scale_matter() -> None:
    z = clusters(100).astype(np.float64)
    wide = np.zeros((200, 24))
    wide[::2, ::2] = z * np.logspace(-3, 3, 100)[:, None]
    found, expected = similarity_statistics(wide[::2, ::2]), similarity_statistics(z)
    np.testing.assert_allclose(found.quantiles, expected.quantiles, atol=1e-12)
    np.testing.assert_array_equal(found.above, expected.above)


def test_without_labels_all_others_are_other() -> None:
    found = similarity_statistics(clusters(20))
    assert found.negatives.tolist() == [[0, 0, 19]] * 20
    assert np.isnan(found.means[:, :2]).all()
    assert np.isnan(found.mean()["class"])
    assert np.isfinite(found.mean()["other"])
    assert list(found.mean_above()) == list(GROUPS)


def test_the_mean_leaves_out_rows_without_a_group() -> None:
    found = similarity_statistics(np.eye(4)[[0, 0, 1, 2]], classes=[0, 0, 1, 2])
    assert found.mean()["class"] == pytest.approx(1.0)  # rows 2 and 3 are alone in their classes
    assert found.mean()["other"] == pytest.approx(0.0)


def test_a_given_threshold_is_what_is_counted_above() -> None:
    found = similarity_statistics([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], threshold=0.5)
    assert found.threshold == 0.5
    assert found.above[:, 2].tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embeddings": np.ones(4)}, r"array of shape \[N, D\], but got float64 of shape \[4\]"),
        ({"embeddings": np.ones((1, 4))}, r"N at least 2 and D at least 1, but got \[1, 4\]"),
        ({"embeddings": [[1.0, 0.0], [0.0, 0.0]]}, "row 1 of `embeddings` is all zeros"),
        ({"embeddings": [[1.0, 0.0], [np.nan, 0.0]]}, "row 1 of `embeddings` has a NaN or an infinity"),
        ({"classes": [0, 1]}, r"expected `classes` to have shape \[3\], but got \[2\]"),
        ({"classes": [0.5, 1, 2]}, r"expected `classes` to be integers \[N\], but got float64 of shape \[3\]"),
        ({"superclasses": [0, -1, 2]}, "expected `superclasses` to be at least 0, but got -1"),
        (
            {"classes": [5, 5, 6], "superclasses": [0, 1, 1]},
            "expected `superclasses` to be one for each class, but class 5 has 0 and 1",
        ),
        ({"quantile": 1.5}, r"expected `quantile` to be in \[0, 1\], but got 1.5"),
        ({"threshold": float("nan")}, "expected `threshold` to be a number, but got NaN"),
        ({"bins": 0}, r"expected `bins` to be in \[1, 10000\], but got 0"),
        ({"bins": -1}, r"expected `bins` to be in \[1, 10000\], but got -1"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        similarity_statistics(**{"embeddings": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], **arguments})  # type: ignore[arg-type]
