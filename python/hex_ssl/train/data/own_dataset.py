"""The user's own Dataset as the images of a run: `data.name: module:function`."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from hex_ssl.train.data.card import IMAGENET_MEAN, IMAGENET_STD, Card
from hex_ssl.train.data.images import UNLABELLED, ImageDataset, in_colour, small_in_memory
from hex_ssl.train.own_code import import_own

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class OwnImages(ImageDataset):
    """The images and labels of any map-style Dataset.

    Args:
        dataset: A Dataset with a length. An item is an image or a tuple that begins with an image. An image is a PIL
            image, which is converted to colour, or a tensor [C, H, W] with C = 1 or 3, uint8 or floating point in
            [0, 1]. The attribute `targets` or `labels` holds one integer per image, -1 for images without a label. The
            attribute `classes` holds the class names. A `Subset` has those of its `dataset`, and a `TensorDataset` may
            have the labels as its second tensor. Otherwise the images have no labels: reading them from the items would
            decode every image.
        name: Name of the dataset for error messages.

    Raises:
        ValueError: `dataset` is not a map-style Dataset, is empty, or has labels or a first image of another kind.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> images = OwnImages(TensorDataset(torch.rand(5, 1, 8, 8)), "mine:numbers")
        >>> len(images), images.channels, images[0][0].shape, images.classes
        (5, 1, torch.Size([1, 8, 8]), 0)
    """

    def __init__(self, dataset: Any, name: str) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise ValueError(f"expected {name} to return a Dataset with a length, but got {type(dataset).__name__}")
        if len(dataset) == 0:
            raise ValueError(f"expected {name} to return a Dataset with images, but it is empty")
        self.dataset = dataset
        self.name = name
        labels, names = _labels(dataset, name), [str(each) for each in getattr(_whole(dataset), "classes", [])]
        classes = max(len(names), int(labels.max()) + 1)
        first = self._first_of(0)
        channels = first.shape[0] if isinstance(first, Tensor) and first.ndim == 3 else 3
        super().__init__(labels, classes, class_names=names if len(names) == classes else (), channels=channels)
        self.image(0)

    def image(self, index: int) -> Image.Image | Tensor:
        """The image. A PIL image is converted to colour.

        Raises:
            ValueError: The item is not an image, or has another number of channels than the first one.
        """
        image = self._first_of(index)
        if isinstance(image, Image.Image):
            return in_colour(image)
        described = self._unlike(image)
        if described:
            raise ValueError(
                f"expected item {index} of {self.name} to be a PIL image or a tensor [{self.channels}, H, W], uint8 or "
                f"floating point in [0, 1], without transforms that normalise, but got {described}"
            )
        tensor: Tensor = image
        return tensor if tensor.dtype == torch.uint8 else tensor.float()

    def _first_of(self, index: int) -> Any:
        item = self.dataset[index]
        return item[0] if isinstance(item, (tuple, list)) else item

    def _unlike(self, image: Any) -> str:
        """A description of an item that is not an image. Empty if it is one."""
        if not isinstance(image, Tensor):
            return type(image).__name__
        if image.ndim != 3 or image.shape[0] != self.channels or self.channels not in (1, 3):
            return f"a tensor {list(image.shape)}"
        if image.dtype == torch.uint8:
            return ""
        if not image.is_floating_point():
            return f"{image.dtype}"
        low, high = image.min().item(), image.max().item()
        return "" if low >= 0.0 and high <= 1.0 else f"values of {low:g} to {high:g}"


def own_dataset(name: str, split: str, root: str | None, arguments: Mapping[str, Any]) -> ImageDataset:
    """Calls the user's function and returns the images of a split.

    Args:
        name: "module:function".
        split: "train" or "test", the first argument of the function. For "test" it may return None.
        root: Passed to the function as `root`, unless it is None.
        arguments: Further keyword arguments of the function.

    Returns:
        The function's result if it is an `ImageDataset`. Otherwise `OwnImages` of it, decoded into memory if the images
        are small.

    Raises:
        FileNotFoundError: There is no such split.
        ValueError: There is no such function, or its result is not a Dataset of images.
    """
    make = import_own("data.name", name, "module:function")
    made = make(split, **({} if root is None else {"root": root}), **arguments)
    if made is None and split != "train":
        raise FileNotFoundError(f"{name} has no {split} split")
    return made if isinstance(made, ImageDataset) else small_in_memory(OwnImages(made, name))


def own_card(name: str) -> Card:
    """A card for the user's own dataset, with default values."""
    return Card(
        name=name,
        title=name,
        about="yours",
        splits={},
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        statistics="ImageNet's, as usual",
        augmentation="symmetric",
        licence="yours",
        citation="yours",
        source="yours",
    )


def _whole(dataset: Any) -> Any:
    """The Dataset of which this is a subset, or the Dataset itself."""
    return _whole(dataset.dataset) if isinstance(dataset, Subset) else dataset


def _labels(dataset: Any, name: str) -> Tensor:
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset, name)[torch.as_tensor(dataset.indices)]
    found = next((getattr(dataset, each) for each in ("targets", "labels") if hasattr(dataset, each)), None)
    if isinstance(dataset, TensorDataset) and found is None:
        found = next((each for each in dataset.tensors[1:2] if each.ndim == 1 and each.dtype in INTEGERS), None)
    if found is None:
        return torch.full((len(dataset),), UNLABELLED)
    try:
        labels = torch.as_tensor(found)
        whole = labels.ndim == 1 and not labels.is_floating_point() and len(labels) == len(dataset)
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole:
        raise ValueError(f"expected the labels of {name} to be a whole number for each of its {len(dataset)} images")
    return labels.long()
