"""Random numbers as functions of seed, epoch, image and view."""

import itertools

import pytest
import torch

from hex_ssl.train.data.draws import Draws, draw_keys, seeded

MASK = 2**64 - 1


def reference_hash(number: int) -> int:
    """SplitMix64's finaliser with Python integers."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def reference_key(seed: int, epoch: int, index: int, view: int) -> int:
    key = reference_hash(seed & MASK)
    for part in (epoch, index, view):
        key = reference_hash(key ^ reference_hash((part + 0x9E3779B97F4A7C15) & MASK))
    return key


@pytest.mark.parametrize("seed", [0, 5, -1, 2**63, 2**64 - 1])
def test_keys_are_those_of_unsigned_arithmetic(seed: int) -> None:
    indices = torch.tensor([0, 1, 7, 2_686_842, -1])
    keys = draw_keys(seed, 399, indices, view=1)
    assert [key & MASK for key in keys.tolist()] == [reference_key(seed, 399, i, 1) for i in indices.tolist()]


def test_keys_differ_in_each_of_their_parts() -> None:
    parts = itertools.product(range(4), range(4), range(50), range(2))
    keys = {int(draw_keys(seed, epoch, index, view)) for seed, epoch, index, view in parts}
    assert len(keys) == 4 * 4 * 50 * 2


def test_uniform_numbers_are_those_of_unsigned_arithmetic() -> None:
    key = 12345
    draws = Draws(torch.tensor([key]))
    expected = [(reference_hash((key + n * 0x9E3779B97F4A7C15) & MASK) >> 40) / 2**24 for n in range(1, 7)]
    assert [float(draws.uniform()), *draws.uniform(5).flatten().tolist()] == expected


def test_numbers_have_their_distributions() -> None:
    draws = Draws(draw_keys(0, 0, torch.arange(20_000)))
    uniform, normal = draws.uniform(4).double(), draws.normal(4).double()
    assert 0.0 <= uniform.min() <= uniform.max() < 1.0
    counts = torch.histc(uniform, bins=20, min=0.0, max=1.0)
    assert ((counts - 4000) ** 2 / 4000).sum() < 50  # chi squared, 19 degrees: exceeded once in 10,000 times
    assert normal.mean().abs() < 0.015
    assert (normal.std() - 1.0).abs() < 0.01
    assert ((normal.abs() < 1.0).double().mean() - 0.6827).abs() < 0.007
    correlations = torch.corrcoef(torch.cat([uniform, normal], dim=1).T) - torch.eye(8, dtype=torch.float64)
    assert correlations.abs().max() < 0.03
    assert torch.equal(draws.permutation(4).sort(dim=1).values, torch.arange(4).expand(20_000, 4))
    assert (draws.happens(0.25).double().mean() - 0.25).abs() < 0.013
    assert not draws.happens(0.0).any()
    assert draws.happens(1.0).all()


def test_an_images_numbers_do_not_depend_on_its_batch() -> None:
    keys = draw_keys(0, 3, torch.arange(10))
    alone, together = Draws(keys[4:5]), Draws(keys)
    for _ in range(3):
        assert torch.equal(alone.normal(2, 3)[0], together.normal(2, 3)[4])


def test_seeding_restores_the_generator() -> None:
    before = torch.get_rng_state()
    with seeded(-5):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError), seeded(7):
        torch.rand(3, 2) @ torch.rand(3, 2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(-5):
        assert torch.equal(torch.rand(3), inside)
