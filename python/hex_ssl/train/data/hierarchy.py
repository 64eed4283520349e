"""Generated images with a known tree of classes. They need no download and come in any size and number."""

import math

import torch
from torch import Tensor

from hex_ssl.train.data.images import ArrayImages
from hex_ssl.train.ranges import at_least

SEEDS = {"train": 0, "test": 1}
WAVES = 2
"""Number of waves that the superclass determines, and number of waves that the class determines."""

CLASS_SHARE = 0.7
"""Amplitude of the class's waves relative to those of its superclass."""


class Hierarchy(ArrayImages):
    """Patterns of coloured waves as (image, label): uint8 [3, S, S], and the class.

    An image is a sum of plane waves, cos(k . x + phase), each with its own colour. The superclass determines the
    direction, wavelength and colour of two waves, and the class those of two weaker waves. The phases, the contrast and
    the noise are drawn for each image. Classes of one superclass therefore look alike, and single pixels do not
    reveal the class. The superclass of an image is `superclasses[label]`.

    Args:
        split: "train" or "test". Both have the same tree, but different images.
        superclasses: Number of superclasses.
        classes_per_superclass: Number of classes in each superclass.
        images_per_class: Number of images of each class.
        image_size: S, the side in pixels.
        noise: Standard deviation of the noise on each pixel, on the scale of 0 to 255.
        seed: Seed of the tree and of the images.

    Raises:
        ValueError: `split` is unknown, or a number is below 1.

    Example:
        >>> dataset = Hierarchy("train", superclasses=2, classes_per_superclass=3, images_per_class=4)
        >>> image, label = dataset[0]
        >>> image.shape, len(dataset), dataset.superclasses.tolist()
        (torch.Size([3, 32, 32]), 24, [0, 0, 0, 1, 1, 1])
    """

    def __init__(
        self,
        split: str,
        superclasses: int = 5,
        classes_per_superclass: int = 4,
        images_per_class: int = 100,
        image_size: int = 32,
        noise: float = 12.0,
        seed: int = 0,
    ) -> None:
        if split not in SEEDS:
            raise ValueError(f'expected `split` to be one of "train", "test", but got "{split}"')
        numbers = {
            "superclasses": superclasses,
            "classes_per_superclass": classes_per_superclass,
            "images_per_class": images_per_class,
            "image_size": image_size,
        }
        for name, number in numbers.items():
            at_least(name, number, 1)
        parents = torch.arange(superclasses).repeat_interleave(classes_per_superclass)
        vectors, colours = _draw_classes(parents, torch.Generator().manual_seed(2**16 * seed))
        labels = torch.arange(len(parents)).repeat_interleave(images_per_class)
        generator = torch.Generator().manual_seed(2**16 * seed + 1 + SEEDS[split])
        images = [
            _draw_images(images_per_class, *waves, image_size, noise, generator)
            for waves in zip(vectors, colours, strict=True)
        ]
        super().__init__(
            torch.cat(images),
            labels,
            classes=len(parents),
            class_names=[f"pattern {parent}.{number}" for number, parent in _numbered(parents)],
            superclasses=parents,
            superclass_names=[f"pattern {parent}" for parent in range(superclasses)],
        )


def _draw_classes(parents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Wave vectors [classes, 2 * WAVES, 2] and colours [classes, 2 * WAVES, 3] of the classes of a tree.

    Args:
        parents: int64 [classes], each class's superclass.
        generator: Generator of the waves.
    """
    trunk = _draw_waves(int(parents.max()) + 1, generator)
    twigs = _draw_waves(len(parents), generator)
    vectors = torch.cat([trunk[0][parents], twigs[0]], dim=1)
    return vectors, torch.cat([trunk[1][parents], CLASS_SHARE * twigs[1]], dim=1)


def _draw_waves(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Wave vectors [count, WAVES, 2] in periods per image side, and colours [count, WAVES, 3]."""
    angles = math.pi * torch.rand(count, WAVES, generator=generator)
    turns = 2.0 + 4.0 * torch.rand(count, WAVES, generator=generator)
    vectors = torch.stack([turns * angles.cos(), turns * angles.sin()], dim=-1)
    colours = torch.randn(count, WAVES, 3, generator=generator)
    return vectors, colours / colours.norm(dim=-1, keepdim=True)


def _draw_images(
    count: int, vectors: Tensor, colours: Tensor, size: int, noise: float, generator: torch.Generator
) -> Tensor:
    """Images [count, 3, S, S] of one class."""
    pixels = (torch.arange(size) + 0.5) / size
    turns = vectors[:, 0, None, None] * pixels + vectors[:, 1, None, None] * pixels[:, None]
    phases = torch.rand(count, len(vectors), 1, 1, generator=generator)
    waves = torch.cos(2 * math.pi * (turns + phases))
    contrast = 45.0 + 30.0 * torch.rand(count, 1, 1, 1, generator=generator)
    images = 127.5 + contrast * torch.einsum("wc,nwyx->ncyx", colours, waves)
    noisy = images + noise * torch.randn(images.shape, generator=generator)
    return noisy.round().clamp(0, 255).to(torch.uint8)


def _numbered(parents: Tensor) -> list[tuple[int, int]]:
    seen: dict[int, int] = {}
    numbered = []
    for parent in parents.tolist():
        numbered.append((seen.get(parent, 0), parent))
        seen[parent] = seen.get(parent, 0) + 1
    return numbered
