"""Ranks, neighbours, k-NN within a set and the projection to two dimensions."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from hex_ssl.train.analysis.collapse import effective_rank, group_ranks, singular_values
from hex_ssl.train.analysis.measures import NEIGHBOURS, TEMPERATURE, knn_within
from hex_ssl.train.analysis.neighbours import nearest_in_batches
from hex_ssl.train.analysis.plane import to_plane
from tests.train.analysis.conftest import CLASSES, clusters


def test_rankme_is_the_entropy_of_the_singular_values() -> None:
    z = clusters(50, dims=20).astype(np.float64)
    for rows in (z, z.T, z[:10]):
        spectrum = np.linalg.svd(rows, compute_uv=False)
        shares = spectrum / spectrum.sum() + 1e-7
        assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
        np.testing.assert_allclose(singular_values(rows), spectrum, atol=1e-6 * spectrum[0])


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_counts_equal_directions(rank: int) -> None:
    rows = np.zeros((40, 16))
    rows[np.arange(40), np.arange(40) % rank] = 5.0
    assert effective_rank(rows[: 40 // rank * rank]) == pytest.approx(rank, rel=1e-3)


def test_a_collapsed_group_stands_out_and_the_draw_is_seeded() -> None:
    rows = np.random.default_rng(1).standard_normal((400, 30))
    groups = np.arange(400) % 4
    rows[groups == 2, 5:] *= 0.01
    found = group_ranks(rows, groups, seed=3)
    assert [each.group for each in found] == [0, 1, 2, 3]
    assert found[2].ratio < 0.5 < 0.9 < min(found[0].ratio, found[1].ratio, found[3].ratio)
    assert found == group_ranks(rows, groups, seed=3)


def test_a_common_direction_is_no_dimension_of_a_group() -> None:
    rows = np.random.default_rng(1).standard_normal((200, 10))
    near = rows + 1000.0 * np.repeat([[1.0, 0.0]], 200, axis=0) @ np.eye(2, 10)
    (found,) = group_ranks(near, np.zeros(200, int))
    assert found.local == pytest.approx(9.0, rel=0.05)  # all but the common one


def test_groups_of_one_or_two_have_no_rank() -> None:
    assert [each.group for each in group_ranks(clusters(10), [0, 1, 1, 2, 2, 2, 2, 2, 2, 2])] == [2]


@pytest.mark.parametrize(
    ("features", "groups", "message"),
    [
        (np.ones(3), [0, 0, 0], r"expected `features` to have shape \[N, D\], but got \[3\]"),
        (np.ones((3, 2)), [0, 0], r"expected `groups` to have shape \[3\], but got \[2\]"),
        (np.array([[1.0], [0.0], [1.0]]), [0, 0, 0], "row 1 of `features` is not"),
    ],
)
def test_ranks_name_a_bad_argument(features: np.ndarray, groups: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_ranks(features, groups)


def test_nearest_are_the_most_similar_of_a_batch() -> None:
    z = clusters(60).astype(np.float64)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    found = nearest_in_batches(z, anchors=5, nearest=3, batch_size=60, seed=2)
    for anchor, nearest, cosines in zip(*found, strict=True):
        expected = [row for row in np.argsort(-(unit @ unit[anchor])) if row != anchor][:3]
        assert nearest.tolist() == expected
        np.testing.assert_allclose(cosines, unit[expected] @ unit[anchor])
    few = nearest_in_batches(z, anchors=50, nearest=9, batch_size=10, seed=2)
    assert (few.similarities[:, -1] < found.similarities[:, -1].max()).any()  # a small batch lacks the nearest of all
    with pytest.raises(ValueError, match=r"expected `nearest` to be in \[1, 9\], but got 10"):
        nearest_in_batches(z, nearest=10, batch_size=10)


def test_knn_within_is_sklearns_leave_one_out() -> None:
    z = clusters(120, spread=3.0).astype(np.float64)
    unit, labels = z / np.linalg.norm(z, axis=1, keepdims=True), 10 * (np.arange(120) % CLASSES)
    correct = 0
    for row in range(120):
        others = np.arange(120) != row
        knn = KNeighborsClassifier(
            NEIGHBOURS,
            metric="cosine",
            algorithm="brute",
            weights=lambda distance: np.exp((1 - distance) / TEMPERATURE),
        )
        correct += int(knn.fit(unit[others], labels[others]).predict(unit[[row]])[0] == labels[row])
    assert 0.3 < correct / 120 < 0.95
    for block in (50, 1024):
        assert knn_within(z, labels, block) == pytest.approx(correct / 120, abs=0.02)
    assert knn_within(z, None) is None


def test_pca_keeps_the_two_widest_directions() -> None:
    generator = np.random.default_rng(0)
    around = generator.uniform(0, 2 * np.pi, 100)
    rows = np.stack(
        [np.cos(around), 0.5 * np.sin(around), np.full(100, 3.0), 1e-3 * generator.standard_normal(100)], axis=1
    )
    plane = to_plane(rows, method="pca")
    assert np.abs(plane).max() == pytest.approx(1.0)
    assert plane[:, 1].std() / plane[:, 0].std() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="at least 3 rows to project, but got 2"):
        to_plane(rows[:2])


def test_umap_is_seeded_and_separates_clusters() -> None:
    pytest.importorskip("umap", reason="umap-learn of the extra `analysis` is not installed")
    z = clusters(60, spread=0.1)
    plane = to_plane(z, seed=4)
    np.testing.assert_array_equal(plane, to_plane(z, seed=4))
    labels = np.arange(60) % CLASSES
    within = np.mean([plane[labels == label].std(axis=0).mean() for label in range(CLASSES)])
    assert within < 0.5 * plane.std(axis=0).mean()
