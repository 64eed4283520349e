"""The digits, their views, and the batches."""

from dataclasses import replace

import pytest
import torch

from hex_ssl.config import DataConfig
from hex_ssl.data import Augmentation, Digits, PretrainData

STILL = Augmentation(rotation=0, shear=0, translation=0, scale=(1.0, 1.0), contrast=0, brightness=0, noise=0, erased=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
        Digits("val")  # type: ignore[arg-type]


def test_augmentation_of_nothing_is_the_image() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.allclose(STILL(images, seeded()), images, atol=1e-5)


def test_each_image_has_a_draw_of_its_own() -> None:
    image = Digits("train").images[:1]
    views = Augmentation()(image.expand(16, -1, -1, -1), seeded())
    assert len(views.flatten(1).unique(dim=0)) == 16


def test_draws_follow_the_generator() -> None:
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(Augmentation()(images, seeded(1)), Augmentation()(images, seeded(1)))
    assert not torch.equal(Augmentation()(images, seeded(1)), Augmentation()(images, seeded(2)))


@pytest.mark.parametrize("side", [8, 16])
def test_erased_square_has_the_size_asked_for(side: int) -> None:
    view = replace(STILL, erased=0.5)(torch.ones(400, 1, side, side), seeded())
    erased = (view < 0.5).sum(dim=(1, 2, 3)).float()
    assert erased.max() == (side // 2) ** 2
    assert erased.min() >= (side // 4) ** 2  # its centre lies in the image


def test_translation_moves_the_image_by_at_most_the_share() -> None:
    dot = torch.zeros(200, 1, 8, 8)
    dot[:, :, 3:5, 3:5] = 1.0
    moved = replace(STILL, translation=0.25)(dot, seeded())
    columns = torch.arange(8.0) + 0.5
    centres = (moved * columns).sum(dim=(1, 2, 3)) / moved.sum(dim=(1, 2, 3))
    assert 1.8 < (centres - 4.0).abs().max() <= 2.001


def test_magnification_is_within_its_range() -> None:
    square = torch.zeros(200, 1, 32, 32)
    square[:, :, 12:20, 12:20] = 1.0
    area = replace(STILL, scale=(0.5, 1.5))(square, seeded()).sum(dim=(1, 2, 3)) / 64
    assert 0.2 < area.min() < 0.35
    assert 2.0 < area.max() < 2.35


def test_batches_are_shuffled_whole_and_follow_seed_and_epoch() -> None:
    def labels(seed: int, epoch: int) -> torch.Tensor:
        loader = PretrainData(DataConfig(), seed).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]  # as Lightning does
        batches = [batch_labels for _, batch_labels in loader]
        assert [len(batch) for batch in batches] == [256] * 5
        return torch.cat(batches)

    assert torch.equal(labels(0, 0), labels(0, 0))
    assert not torch.equal(labels(0, 0), labels(0, 1))
    assert not torch.equal(labels(0, 0), labels(1, 0))


def test_two_different_views_of_each_image() -> None:
    data = PretrainData(DataConfig(), seed=0)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    (first, second), same_labels = data.on_after_batch_transfer((images, labels), 0)
    assert first.shape == second.shape == images.shape
    assert not torch.equal(first, second)
    assert torch.equal(same_labels, labels)


def test_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected `data.batch_size` to be at most 1437"):
        PretrainData(DataConfig(batch_size=1438), seed=0)
