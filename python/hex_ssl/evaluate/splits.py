"""Labelled images of a dataset to train and to test with: as they are, or as crops and flips."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from hex_ssl.data import (
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
from hex_ssl.data.draws import draw_keys
from hex_ssl.data.evaluation_images import as_float, normalise, square
from hex_ssl.data.images import UNLABELLED
from hex_ssl.data.subset import stratified_rows
from hex_ssl.evaluate.source import ImageShape


class InColour(ImageDataset):
    """Grey images as colour images, for a network that takes those.

    Args:
        grey: The images.

    Example:
        >>> from hex_ssl.data import Digits
        >>> InColour(Digits("test")).image(0).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, grey: ImageDataset) -> None:
        super().__init__(
            grey.labels,
            grey.classes,
            class_names=grey.class_names,
            superclasses=grey.superclasses,
            superclass_names=grey.superclass_names,
            size=grey.size,
        )
        self.grey = grey

    @property
    def in_memory(self) -> bool:
        """As of the grey images."""
        return self.grey.in_memory

    def image(self, index: int) -> Image.Image | Tensor:
        """The image, with three equal channels."""
        return cast("Image.Image | Tensor", V.grayscale_to_rgb(self.grey.image(index)))


class RandomImages(Dataset[tuple[Tensor, int]]):
    """Images as (random view, label), normalised: the crop and the flip of the dataset's own augmentation policy.

    For photographs that is a crop of 8 to 100 % of the area, resized by bicubic interpolation, and a flip with
    probability 0.5; for the digits it is their whole view.

    Args:
        images: The images.
        view: How to draw it.
        seed: Decides the draws, with the epoch and the image's row.
        epoch: Of which the views are.
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
        """Some items; a data loader asks for those of a batch at once."""
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
    """Images to train with and images to test with.

    Args:
        name: The dataset's.
        train: Labelled images, as they are.
        test: Likewise.
        tested: Which images those are, in words.
        classes: C.
        superclasses: int64 [C], the superclass of each class; None where there are none.
        view: The crop and the flip.
    """

    name: str
    train: EvaluationImages
    test: EvaluationImages
    tested: str
    classes: int
    superclasses: Tensor | None
    view: PhotoView | DigitView

    def subset(self, fraction: float, seed: int) -> Tensor:
        """Rows of `train` that a share of its labels leaves: of each class the same share, at least one."""
        return stratified_rows(self.train.labels, fraction, seed)

    def random(self, rows: Tensor, seed: int, epoch: int) -> RandomImages:
        """Crops and flips of some rows of `train`."""
        return RandomImages(some_rows(self.train, rows), self.view, seed, epoch)


def open_splits(name: str, root: str | Path | None, shape: ImageShape, holdout: float = 0.0, seed: int = 0) -> Splits:
    """The labelled images of a dataset, of the shape that a network takes, normalised by the dataset's own statistics.

    Args:
        name: As `hex_ssl.data.list_datasets` has it.
        root: The folder that holds it.
        shape: What the network takes. Grey images become colour images where it takes those.
        holdout: Share of the training images that is tested on, in place of the test images, and not trained on.
        seed: Decides which.

    Raises:
        FileNotFoundError: Files are missing; the message says what to put where.
        ValueError: There is no such dataset, it has no labels or those of one class alone, or it has colours and the
            network takes grey images.

    Example:
        >>> splits = open_splits("digits", None, ImageShape(1, 8), holdout=0.1)
        >>> len(splits.train), len(splits.test), splits.tested
        (1293, 144, '10 % of the training images, held out')
    """
    card = dataset_card(name)
    train = _labelled(build_dataset(name, "train", root), card, shape, "train")
    if len(train.labels.unique()) < 2:
        raise ValueError(f"expected the training images of {name} to be of at least 2 classes, but all are of one")
    if holdout:
        held_out = stratified_rows(train.labels, holdout, seed)
        kept = torch.ones(len(train), dtype=torch.bool).index_fill(0, held_out, False).nonzero().flatten()
        if len(kept) == 0:
            raise ValueError(f"expected `holdout` to leave images to train with, but {holdout} leaves none")
        train, test = some_rows(train, kept), some_rows(train, held_out)
        tested = f"{100 * holdout:g} % of the training images, held out"
    else:
        test, tested = _labelled(build_dataset(name, "test", root), card, shape, "test"), "the test images"
    dataset = train.dataset
    return Splits(name, train, test, tested, dataset.classes, dataset.superclasses, _crop_and_flip(card, shape.size))


def some_rows(images: EvaluationImages, rows: Tensor) -> EvaluationImages:
    """Some of the images, by their number among them."""
    return EvaluationImages(images.dataset, images.rows[rows], images.size, images.mean, images.std)


def workers(images: EvaluationImages, asked: int | None, drawing: bool = False) -> int:
    """How many processes load images.

    Args:
        images: The images.
        asked: So many; None: none for images in memory, else as many as there are cores.
        drawing: Whether random views are drawn, which is work also of images in memory.
    """
    if asked is not None:
        return asked
    idle = images.dataset.in_memory and not (drawing and len(images) > SMALL)
    return 0 if idle else len(os.sched_getaffinity(0))


SMALL = 5000
"""Images in memory of which random views are drawn sooner than processes for it are started."""


def _labelled(dataset: ImageDataset, card: Card, shape: ImageShape, split: str) -> EvaluationImages:
    rows = (dataset.labels != UNLABELLED).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError(f"expected the {split} split of {card.name} to have labels, but it has none")
    mean, std = card.mean, card.std
    if dataset.channels == 1 and shape.channels == 3:
        dataset, mean, std = InColour(dataset), 3 * mean, 3 * std
    if dataset.channels != shape.channels:
        raise ValueError(
            f"expected images of {shape.channels} channels, which the network takes, "
            f"but those of {card.name} have {dataset.channels}"
        )
    return EvaluationImages(dataset, rows, shape.size, mean, std)


def _crop_and_flip(card: Card, size: int) -> PhotoView | DigitView:
    view = find_policy(card.augmentation, size)[0]
    return view if isinstance(view, DigitView) else replace(view, jitter=0.0, grey=0.0, blur=0.0, solarize=0.0)
