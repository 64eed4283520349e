"""Labelled images of a dataset for training and testing, without augmentation or as crops and flips."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from hex_ssl.train.cores import available_cores
from hex_ssl.train.data import (
    BatchedView,
    Card,
    DigitView,
    EvaluationImages,
    ImageDataset,
    PhotoView,
    WorkerView,
    build_dataset,
    dataset_card,
    find_policy,
)
from hex_ssl.train.data.colours import LUMA
from hex_ssl.train.data.draws import draw_keys
from hex_ssl.train.data.evaluation_images import as_float, normalise, square
from hex_ssl.train.data.images import UNLABELLED
from hex_ssl.train.data.subset import stratified_rows
from hex_ssl.train.evaluate.source import ImageShape


class WithChannels(ImageDataset):
    """Converts grey images to colour images, or the reverse, for a network that needs it.

    Args:
        images: The images.
        channels: 1 or 3.

    Example:
        >>> from hex_ssl.train.data import Digits
        >>> WithChannels(Digits("test"), 3).image(0).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, images: ImageDataset, channels: int) -> None:
        super().__init__(
            images.labels,
            images.classes,
            class_names=images.class_names,
            superclasses=images.superclasses,
            superclass_names=images.superclass_names,
            size=images.size,
            channels=channels,
        )
        self.images = images

    @property
    def in_memory(self) -> bool:
        """Whether the underlying images are in memory."""
        return self.images.in_memory

    def image(self, index: int) -> Image.Image | Tensor:
        """The image: with three equal channels, or the weighted mean of the three."""
        convert = V.grayscale_to_rgb if self.channels == 3 else V.rgb_to_grayscale
        return cast("Image.Image | Tensor", convert(self.images.image(index)))


class RandomImages(Dataset[tuple[Tensor, int]]):
    """Images as (random view, label), normalised: the crop and the flip of the dataset's own augmentation policy.

    For photographs this is a crop of 8 to 100 % of the area, resized by bicubic interpolation, and a flip with
    probability 0.5. For `hierarchy`, it is a crop of 40 to 100 % without a flip, and for the digits, their whole view.

    Args:
        images: The images.
        view: The random view.
        seed: Seed of the random numbers, together with the epoch and the image's row.
        epoch: Epoch of the views.
    """

    def __init__(self, images: EvaluationImages, view: PhotoView | DigitView, seed: int, epoch: int) -> None:
        self.images = images
        self.view = view
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Several items. DataLoader calls this once for each batch."""
        images = self.images
        rows = images.rows[indices]
        normalised = normalise(self._views(rows, draw_keys(self.seed, self.epoch, rows)), images.mean, images.std)
        return list(zip(normalised.unbind(), images.labels[indices].tolist(), strict=True))

    def _views(self, rows: Tensor, keys: Tensor) -> Tensor:
        dataset, size = self.images.dataset, self.images.size
        whole = [dataset.image(row) for row in rows.tolist()]
        if isinstance(self.view, DigitView):
            return self.view(as_float(torch.stack([square(image, size, self.images.whole) for image in whole])), keys)
        if dataset.in_memory and dataset.size is not None:  # tensors of one size: a batch at a time is faster
            return BatchedView(self.view, size)(as_float(torch.stack(cast("list[Tensor]", whole))), keys)
        draw = WorkerView(self.view, size)
        return as_float(torch.stack([draw(image, key) for image, key in zip(whole, keys.tolist(), strict=True)]))


@dataclass(frozen=True)
class Splits:
    """Training and test images.

    Args:
        name: Name of the dataset.
        train: Labelled training images, without augmentation.
        test: Labelled test images, without augmentation.
        tested: Description of the test images.
        classes: C, the number of classes.
        superclasses: int64 [C], the superclass of each class, or None.
        view: The crop and the flip.
        shown: Description of the preprocessing: mean, standard deviation, and any conversion of channels.
    """

    name: str
    train: EvaluationImages
    test: EvaluationImages
    tested: str
    classes: int
    superclasses: Tensor | None
    view: PhotoView | DigitView
    shown: str

    @property
    def found(self) -> str:
        """A summary: numbers of training and test images, and of classes."""
        return (
            f"{self.name}: {len(self.train):,} labelled images to train with, {len(self.test):,} to test with, "
            f"classes: {self.classes:,}"
        )

    def subset(self, fraction: float, seed: int) -> Tensor:
        """Rows of `train` for a fraction of its labels: the same fraction of each class, and at least one row."""
        return stratified_rows(self.train.labels, fraction, seed)

    def random(self, rows: Tensor, seed: int, epoch: int) -> RandomImages:
        """Crops and flips of the given rows of `train`."""
        return RandomImages(some_rows(self.train, rows), self.view, seed, epoch)


def open_splits(
    name: str,
    root: str | Path | None,
    shape: ImageShape,
    holdout: float = 0.0,
    seed: int = 0,
    level: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Splits:
    """Opens the labelled images of a dataset, in the shape that a network takes, normalised as its card says.

    Args:
        name: Name of the dataset, from `hex_ssl.train.data.list_datasets`, or "module:function".
        root: The folder of the dataset.
        shape: Shape of the images that the network takes. Grey images are converted to colour, or the reverse, if
            needed.
        holdout: Fraction of the training images to test on instead of the test images. They are not trained on.
        seed: Seed of the choice of the held-out images.
        level: Level of the class tree that gives the superclasses, as for `build_dataset`.
        arguments: Arguments of your own dataset function, as for `build_dataset`.

    Raises:
        FileNotFoundError: Files are missing. The message says which files to put where.
        ValueError: There is no such dataset, it has no labels or labels of only one class, or the network takes neither
            grey nor colour images.

    Example:
        >>> splits = open_splits("digits", None, ImageShape(1, 8), holdout=0.1)
        >>> len(splits.train), len(splits.test), splits.tested
        (1293, 144, '10 % of the training images, held out')
    """
    card = dataset_card(name)
    train = _labelled(build_dataset(name, "train", root, level, arguments), card, shape, "train")
    if len(train.labels.unique()) < 2:
        raise ValueError(f"expected the training images of {name} to have at least 2 classes, but all have the same")
    if holdout:
        held_out = stratified_rows(train.labels, holdout, seed)
        kept = torch.ones(len(train), dtype=torch.bool).index_fill(0, held_out, False).nonzero().flatten()
        if len(kept) == 0:
            raise ValueError(f"expected `holdout` to leave images to train with, but {holdout} leaves none")
        train, test = some_rows(train, kept), some_rows(train, held_out)
        tested = f"{100 * holdout:g} % of the training images, held out"
    else:
        test, tested = (
            _labelled(build_dataset(name, "test", root, level, arguments), card, shape, "test"),
            "the test images",
        )
    dataset = train.dataset
    view, shown = _crop_and_flip(card, shape.size), _shown(card, train)
    return Splits(name, train, test, tested, dataset.classes, dataset.superclasses, view, shown)


def some_rows(images: EvaluationImages, rows: Tensor) -> EvaluationImages:
    """The images with the given positions in `images`."""
    return EvaluationImages(images.dataset, images.rows[rows], images.size, images.mean, images.std)


def workers(images: EvaluationImages, asked: int | None, drawing: bool = False) -> int:
    """Number of DataLoader workers.

    Args:
        images: The images.
        asked: The user's setting. None uses none for images in memory, and one per core otherwise.
        drawing: Whether random views are drawn. Then more than `SMALL` images in memory also get workers.
    """
    if asked is not None:
        return asked
    idle = images.dataset.in_memory and not (drawing and len(images) > SMALL)
    return 0 if idle else available_cores()


SMALL = 5000
"""Up to this number of images in memory, drawing views takes less time than starting workers."""


def _labelled(dataset: ImageDataset, card: Card, shape: ImageShape, split: str) -> EvaluationImages:
    rows = (dataset.labels != UNLABELLED).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError(f"expected the {split} split of {card.name} to have labels, but it has none")
    card = card.with_channels(dataset.channels)
    mean, std = card.mean, card.std
    if dataset.channels != shape.channels:
        if {dataset.channels, shape.channels} != {1, 3}:
            raise ValueError(
                f"expected images of {shape.channels} channels, which the network takes, "
                f"but those of {card.name} have {dataset.channels}"
            )
        mean, std = (_converted(each, shape.channels) for each in (mean, std))
        dataset = WithChannels(dataset, shape.channels)
    return EvaluationImages(dataset, rows, shape.size, mean, std)


def _converted(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A mean or a standard deviation for another number of channels.

    The grey standard deviation is exact only if the three channels are perfectly correlated.
    """
    if channels == 3:
        return 3 * values
    return (sum(weight * value for weight, value in zip(LUMA, values, strict=True)),)


def _shown(card: Card, images: EvaluationImages) -> str:
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (images.mean, images.std))
    converted = ""
    if isinstance(images.dataset, WithChannels):
        converted = ", grey as colours" if images.dataset.channels == 3 else ", colours as grey"
    return f"mean {mean}, deviation {std} ({card.statistics}){converted}"


def _crop_and_flip(card: Card, size: int) -> PhotoView | DigitView:
    view = find_policy(card.augmentation, size)[0]
    return view if isinstance(view, DigitView) else replace(view, jitter=0.0, grey=0.0, blur=0.0, solarize=0.0)
