"""Random fractions of the training images, stratified by class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hex_ssl.train.data.subset import stratified_rows


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any),
    fraction=st.floats(0.01, 1.0),
    seed=st.integers(0, 5),
)
def test_every_class_keeps_the_fraction(sizes: list[int], fraction: float, seed: int) -> None:
    labels = torch.cat([torch.full((size,), label - 1) for label, size in enumerate(sizes)])
    rows = stratified_rows(labels, fraction, seed)
    assert torch.equal(rows, rows.unique())
    counts = torch.bincount(labels[rows] + 1, minlength=len(sizes))
    total = sum(sizes)
    for size, count in zip(sizes, counts.tolist(), strict=True):
        assert min(size, 1) <= count <= size
        assert abs(count - size * fraction) < 1 or count == 1
    assert len(rows) >= round(total * fraction)
    if all(size * fraction >= 1 for size in sizes if size):
        assert len(rows) == round(total * fraction)


def test_the_seed_determines_the_rows() -> None:
    labels = torch.arange(1000) % 10
    first = stratified_rows(labels, 0.1, seed=0)
    assert torch.equal(first, stratified_rows(labels, 0.1, seed=0))
    assert not torch.equal(first, stratified_rows(labels, 0.1, seed=1))
    assert labels[first].bincount().tolist() == [10] * 10
    assert torch.isin(first, stratified_rows(labels, 0.2, seed=0)).all()


def test_ten_per_cent_of_uneven_classes_adds_up() -> None:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate([1300, 732, 1299, 1004])])
    rows = stratified_rows(labels, 0.1, seed=0)
    assert labels[rows].bincount().tolist() == [130, 73, 130, 101]  # 434 in all: 433.5, rounded to even


def test_fraction_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"expected `fraction` to be in \(0, 1\], but got 0"):
        stratified_rows(torch.zeros(5), 0.0, seed=0)
