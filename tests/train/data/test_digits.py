"""The digits and their views, which are drawn one batch at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hex_ssl.train.data import Digits, DigitView
from hex_ssl.train.data.draws import draw_keys

STILL = DigitView(rotation=0, shear=0, translation=0, scale=(1.0, 1.0), contrast=0, brightness=0, noise=0, erased=0)


def keys(count: int, epoch: int = 0) -> Tensor:
    return draw_keys(0, epoch, torch.arange(count))


def test_split_is_fixed_stratified_and_without_overlap() -> None:
    train, test = Digits("train"), Digits("test")
    shares = [split.labels.bincount() / len(split) for split in (train, test)]
    assert torch.allclose(shares[0], shares[1], atol=0.005)
    assert torch.equal(train.images, Digits("train").images)
    both = torch.cat([train.images, test.images]).flatten(1)
    assert len(both.unique(dim=0)) == len(both) == 1797
    assert (both.min(), both.max()) == (0.0, 1.0)


def test_larger_images_are_the_same_digits() -> None:
    large = Digits("test", image_size=16).images
    assert large.shape == (360, 1, 16, 16)
    assert torch.allclose(large.mean(dim=(1, 2, 3)), Digits("test").images.mean(dim=(1, 2, 3)), atol=0.03)


def test_unknown_split_lists_the_choices() -> None:
    with pytest.raises(ValueError, match='expected `split` to be one of "train", "test", but got "val"'):
        Digits("val")


def test_view_of_nothing_is_the_image() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.allclose(STILL(images, keys(5)), images, atol=1e-5)


def test_each_image_has_its_own_random_numbers() -> None:
    image = Digits("train").images[:1]
    views = DigitView()(image.expand(16, -1, -1, -1), keys(16))
    assert len(views.flatten(1).unique(dim=0)) == 16


def test_views_depend_on_the_keys_and_not_on_the_batch() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(DigitView()(images, keys(5)), DigitView()(images, keys(5)))
    assert not torch.equal(DigitView()(images, keys(5)), DigitView()(images, keys(5, epoch=1)))
    assert torch.equal(DigitView()(images[3:], keys(5)[3:]), DigitView()(images, keys(5))[3:])


@pytest.mark.parametrize("side", [8, 16])
def test_erased_square_has_the_size_asked_for(side: int) -> None:
    view = replace(STILL, erased=0.5)(torch.ones(400, 1, side, side), keys(400))
    erased = (view < 0.5).sum(dim=(1, 2, 3)).float()
    assert erased.max() == (side // 2) ** 2
    assert erased.min() >= (side // 4) ** 2  # its centre lies in the image


def test_translation_moves_the_image_by_at_most_the_share() -> None:
    dot = torch.zeros(200, 1, 8, 8)
    dot[:, :, 3:5, 3:5] = 1.0
    moved = replace(STILL, translation=0.25)(dot, keys(200))
    columns = torch.arange(8.0) + 0.5
    centres = (moved * columns).sum(dim=(1, 2, 3)) / moved.sum(dim=(1, 2, 3))
    assert 1.8 < (centres - 4.0).abs().max() <= 2.001


def test_magnification_is_within_its_range() -> None:
    square = torch.zeros(200, 1, 32, 32)
    square[:, :, 12:20, 12:20] = 1.0
    area = replace(STILL, scale=(0.5, 1.5))(square, keys(200)).sum(dim=(1, 2, 3)) / 64
    assert 0.2 < area.min() < 0.35
    assert 2.0 < area.max() < 2.35


def test_noise_has_its_standard_deviation() -> None:
    noisy = replace(STILL, noise=0.1)(torch.full((200, 1, 8, 8), 0.5), keys(200))
    assert abs(noisy.std() - 0.1) < 0.003
