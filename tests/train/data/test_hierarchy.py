"""The generated images: the class tree is visible in the pixels."""

import pytest
import torch

from hex_ssl.train.data import Hierarchy


def spectra(dataset: Hierarchy) -> torch.Tensor:
    """The amplitude of each wave per channel, which does not depend on the phases."""
    waves = torch.fft.rfft2(dataset.images.double() / 255 - 0.5).abs()
    return torch.nn.functional.normalize(waves.flatten(1), dim=1)


def test_images_follow_the_tree() -> None:
    dataset = Hierarchy("train", superclasses=4, classes_per_superclass=3, images_per_class=20)
    similarity = spectra(dataset) @ spectra(dataset).T
    same_class = dataset.labels[:, None] == dataset.labels
    assert dataset.superclasses is not None
    parents = dataset.superclasses[dataset.labels]
    siblings = (parents[:, None] == parents) & ~same_class
    means = [float(similarity[pairs].mean()) for pairs in (same_class, siblings, ~same_class & ~siblings)]
    assert means[0] > means[1] + 0.1 > means[2] + 0.2


def test_single_pixels_do_not_reveal_the_class() -> None:
    """A vote of the nearest training images by their pixels is hardly better than chance; by their waves it is."""
    train = Hierarchy("train", superclasses=4, classes_per_superclass=3, images_per_class=20)
    test = Hierarchy("test", superclasses=4, classes_per_superclass=3, images_per_class=20)
    means = torch.stack([(train.images / 255)[train.labels == label].mean(0) for label in range(12)])
    nearest = torch.cdist((test.images / 255).flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == test.labels).double().mean() < 0.3
    votes = (spectra(test) @ spectra(train).T).argmax(1)
    assert (train.labels[votes] == test.labels).double().mean() > 0.8


def test_images_depend_on_seed_and_split() -> None:
    first = Hierarchy("train", images_per_class=2)
    assert torch.equal(first.images, Hierarchy("train", images_per_class=2).images)
    assert not torch.equal(first.images, Hierarchy("test", images_per_class=2).images)
    assert not torch.equal(first.images, Hierarchy("train", images_per_class=2, seed=1).images)
    assert first.class_names[:5] == ("pattern 0.0", "pattern 0.1", "pattern 0.2", "pattern 0.3", "pattern 1.0")


def test_size_and_number_of_images_are_free() -> None:
    dataset = Hierarchy("test", superclasses=2, classes_per_superclass=5, images_per_class=3, image_size=16)
    assert dataset.images.shape == (30, 3, 16, 16)
    assert dataset.labels.bincount().tolist() == [3] * 10


@pytest.mark.parametrize("name", ["superclasses", "classes_per_superclass", "images_per_class", "image_size"])
def test_numbers_below_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected `{name}` to be at least 1, but got 0"):
        Hierarchy("train", **{name: 0})


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match='expected `split` to be one of "train", "test", but got "val"'):
        Hierarchy("val")
