"""Labelled images for training and testing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from hex_ssl.train.data import build_dataset, dataset_card
from hex_ssl.train.evaluate.source import ImageShape
from hex_ssl.train.evaluate.splits import WithChannels, open_splits, workers

DIGITS = ImageShape(1, 8)


@pytest.mark.parametrize(("fraction", "size"), [(0.01, 10), (0.1, 143), (1.0, 1437)])
def test_fractions_are_seeded_and_stratified(fraction: float, size: int) -> None:
    splits = open_splits("digits", None, DIGITS)
    rows = splits.subset(fraction, seed=0)
    assert abs(len(rows) - fraction * 1437) <= 5
    counts = splits.train.labels[rows].bincount(minlength=10).double()
    expected = fraction * splits.train.labels.bincount(minlength=10)
    assert counts.min() >= 1
    assert (counts - expected).abs().max() < 1.0
    assert torch.equal(rows, splits.subset(fraction, seed=0))
    assert fraction == 1.0 or not torch.equal(rows, splits.subset(fraction, seed=1))


def test_held_out_images_are_not_trained_on_and_the_test_images_not_used() -> None:
    splits = open_splits("digits", None, DIGITS, holdout=0.25, seed=4)
    train, test = set(splits.train.rows.tolist()), set(splits.test.rows.tolist())
    assert not train & test
    assert train | test == set(range(1437))
    assert splits.test.dataset is splits.train.dataset
    counts = splits.test.labels.bincount().double() / (0.25 * 1437)
    assert counts.sum() == pytest.approx(1.0, abs=0.01)


def test_images_are_normalised_by_their_own_dataset() -> None:
    card = dataset_card("hierarchy")
    splits = open_splits("hierarchy", None, ImageShape(3, 32))
    raw = build_dataset("hierarchy", "test").image(7)
    raw = raw if isinstance(raw, torch.Tensor) else V.pil_to_tensor(raw)
    raw = raw.float() / 255 if raw.dtype == torch.uint8 else raw
    expected = (raw - torch.tensor(card.mean).view(3, 1, 1)) / torch.tensor(card.std).view(3, 1, 1)
    torch.testing.assert_close(splits.test[7][0], expected)
    assert splits.superclasses is not None


def test_grey_images_become_colour_images_for_a_network_that_takes_those() -> None:
    grey, colour = open_splits("digits", None, DIGITS), open_splits("digits", None, ImageShape(3, 8))
    assert colour.test[3][0].shape == (3, 8, 8)
    for channel in colour.test[3][0]:
        torch.testing.assert_close(channel, grey.test[3][0][0])
    assert torch.equal(colour.test.labels, grey.test.labels)
    pillow = WithChannels(build_dataset("digits", "test"), 3)
    pillow.images.image = lambda index: Image.fromarray(np.full((8, 8), index, np.uint8))  # type: ignore[method-assign]
    assert V.pil_to_tensor(pillow.image(9)).unique().tolist() == [9]  # type: ignore[arg-type]


def test_colour_images_become_grey_images_for_a_network_that_takes_those() -> None:
    splits, colour = open_splits("hierarchy", None, ImageShape(1, 32)), build_dataset("hierarchy", "test").image(3)
    card = dataset_card("hierarchy")
    assert isinstance(colour, torch.Tensor)
    weights = torch.tensor([0.2989, 0.587, 0.114])
    grey = (weights[:, None, None] * colour / 255).sum(dim=0, keepdim=True)
    mean, std = (float((weights * torch.tensor(each)).sum()) for each in (card.mean, card.std))
    torch.testing.assert_close(splits.test[3][0], (grey - mean) / std, atol=1 / 255 / std, rtol=0)  # whole numbers
    assert splits.random(torch.tensor([3]), seed=0, epoch=0)[0][0].shape == (1, 32, 32)


def test_images_of_other_channels_are_an_error() -> None:
    with pytest.raises(ValueError, match="expected images of 2 channels, .* but those of hierarchy have 3"):
        open_splits("hierarchy", None, ImageShape(2, 8))


@pytest.mark.parametrize(
    ("name", "channels", "shown"),
    [
        ("digits", 1, "mean 0.3054, deviation 0.3761 (of the training images)"),
        (
            "digits",
            3,
            "mean 0.3054 0.3054 0.3054, deviation 0.3761 0.3761 0.3761 (of the training images), grey as colours",
        ),
        ("folder", 3, "mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225 (ImageNet's, as usual)"),
        ("folder", 1, "mean 0.4589, deviation 0.2256 (ImageNet's, as usual), colours as grey"),
    ],
)
def test_the_normalisation_is_described(name: str, channels: int, shown: str, tmp_path: Path) -> None:
    for folder in ("train/cats", "train/dogs", "test/cats"):
        place = tmp_path / folder
        place.mkdir(parents=True)
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(place / "a.png")
    assert open_splits(name, tmp_path, ImageShape(channels, 16)).shown == shown


def test_random_views_depend_only_on_seed_epoch_and_image() -> None:
    for name, shape in (("digits", DIGITS), ("hierarchy", ImageShape(3, 16))):
        splits = open_splits(name, None, shape)
        rows = torch.tensor([5, 9, 700])
        views = splits.random(rows, seed=1, epoch=2)
        image, label = views[2]
        assert image.shape == (shape.channels, shape.size, shape.size)
        assert label == int(splits.train.labels[700])
        together = views.__getitems__([2, 0])
        torch.testing.assert_close(together[0][0], image)
        assert torch.equal(splits.random(torch.tensor([700]), seed=1, epoch=2)[0][0], image)
        assert not torch.equal(splits.random(rows, seed=1, epoch=3)[2][0], image)
        assert not torch.equal(splits.random(rows, seed=0, epoch=2)[2][0], image)


def test_random_views_of_files_are_only_crops_and_flips(tmp_path: Path) -> None:
    for folder in ("train/gradient", "train/other", "test/gradient"):
        place = tmp_path / folder
        place.mkdir(parents=True)
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[:, :, 0], pixels[:, :, 1], pixels[:, :, 2] = 200, np.arange(0, 240, 4), 30
        Image.fromarray(pixels).save(place / "a.png")
    splits = open_splits("folder", tmp_path, ImageShape(3, 16))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (splits.train.mean, splits.train.std))
    rising = []
    for epoch in range(20):
        image = splits.random(torch.tensor([0]), seed=0, epoch=epoch)[0][0] * std + mean
        for channel, value in ((0, 200 / 255), (2, 30 / 255)):  # no colour was changed
            torch.testing.assert_close(image[channel], torch.full((16, 16), value), atol=1e-3, rtol=0)
        assert (image[1].std(dim=0) < 0.02).all()  # each column is of one value
        rising.append(bool(image[1, 0, -1] > image[1, 0, 0]))
    assert set(rising) == {True, False}  # flipped, or not


def test_images_in_memory_need_no_workers() -> None:
    train = open_splits("digits", None, DIGITS).train
    assert workers(train, None) == 0
    assert workers(train, 3) == 3
