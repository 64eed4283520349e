"""Images for evaluation: without augmentation, cropped to squares of one size."""

from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from hex_ssl.train.data.images import ImageDataset

CENTRE = 224 / 256
"""Side of the centre crop as a fraction of the shorter side, as for resizing to 256 and cropping to 224."""


class EvaluationImages(Dataset[tuple[Tensor, int]]):
    """Rows of a dataset as (image, label): float32 [C, S, S], normalised, and the class.

    If all images of the dataset are squares of one size, they are only resized. Otherwise the centre square with a side
    of 224 / 256 of the shorter side is cropped and resized to S by bilinear interpolation. (Resizing first, as usual,
    would need unlimited memory for an image that is one pixel high.)

    Args:
        dataset: The images.
        rows: int64, the rows to use.
        size: S, the side in pixels.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

    Attributes:
        labels: int64, one per row.
    """

    def __init__(
        self, dataset: ImageDataset, rows: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.dataset = dataset
        self.rows = rows
        self.size = size
        self.mean = mean
        self.std = std
        self.labels = dataset.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Several items. DataLoader calls this once for each batch."""
        images = [square(self.dataset.image(row), self.size, self.whole) for row in self.rows[indices].tolist()]
        normalised = normalise(as_float(torch.stack(images)), self.mean, self.std)
        return list(zip(normalised.unbind(), self.labels[indices].tolist(), strict=True))

    @property
    def whole(self) -> bool:
        """Whether whole images are used, without a centre crop."""
        return self.dataset.size is not None and self.dataset.size[0] == self.dataset.size[1]


def square(image: Image.Image | Tensor, size: int, whole: bool) -> Tensor:
    """The centre square of an image, resized.

    Args:
        image: A PIL image or a tensor [C, H, W].
        size: S, the side in pixels.
        whole: Whether the square has the whole shorter side, instead of 224 / 256 of it.

    Returns:
        [C, S, S] with the dtype of `image`, or uint8 if it is a PIL image.

    Example:
        >>> square(Image.new("RGB", (60, 40)), size=32, whole=False).shape
        torch.Size([3, 32, 32])
    """
    height, width = image.shape[-2:] if isinstance(image, Tensor) else (image.height, image.width)
    if height == width == size and whole:
        return image if isinstance(image, Tensor) else cast(Tensor, V.pil_to_tensor(image))
    side = min(height, width) * (1.0 if whole else CENTRE)
    top, left = (height - side) / 2, (width - side) / 2
    if isinstance(image, Image.Image):
        box = (left, top, left + side, top + side)
        return cast(Tensor, V.pil_to_tensor(image.resize((size, size), Image.Resampling.BILINEAR, box=box)))
    y, x, pixels = round(top), round(left), round(side)
    cropped = image[None, :, y : y + pixels, x : x + pixels]
    resized = F.interpolate(cropped.float(), size=size, mode="bilinear", antialias=True)[0]
    return resized.clamp(0.0, 1.0) if image.is_floating_point() else resized.round().clamp(0, 255).to(image.dtype)


def as_float(images: Tensor) -> Tensor:
    """Converts uint8 images to float32 in [0, 1]. Returns others unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalises images [N, C, H, W]: subtracts `mean` and divides by `std`, both per channel.

    Raises:
        ValueError: `mean` or `std` does not have one number per channel.

    Example:
        >>> normalise(torch.ones(1, 3, 1, 1), (0.5, 0.0, 1.0), (0.5, 1.0, 1.0)).flatten()
        tensor([1., 1., 0.])
    """
    check_statistics(images.shape[1], mean, std)
    means, stds = (torch.tensor(each, dtype=images.dtype, device=images.device)[:, None, None] for each in (mean, std))
    return (images - means) / stds


def check_statistics(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Checks that there are a mean and a standard deviation for each channel."""
    if not len(mean) == len(std) == channels:
        raise ValueError(f"expected a mean and a std for each of {channels} channels, but got {mean} and {std}")
