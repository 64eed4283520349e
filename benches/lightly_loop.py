"""A training loop in lightly's way: its views in worker processes, its DataLoader, its NT-Xent, its two passes.

Where lightly is not installed, its transform and its loss are restated from lightly 1.6.
"""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from gpu_peers import lightly_ntxent
from peers import TEMPERATURE

try:
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
except ImportError:
    SimCLRTransform = None

Pair = tuple[Tensor, Tensor]

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class PillowImages(Dataset[list[Tensor]]):
    """Images as torchvision's CIFAR-10 gives them, and the views of each.

    Args:
        images: uint8 [N, 3, H, W].
        transform: An image of Pillow's to its views.
    """

    def __init__(self, images: Tensor, transform: Callable[[Image.Image], list[Tensor]]) -> None:
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.pixels[index]))


class RestatedTransform:
    """lightly's `SimCLRTransform`: two views by the same random transform."""

    def __init__(self, input_size: int) -> None:
        self.view = v2.Compose(
            [
                v2.RandomResizedCrop(input_size, scale=(0.08, 1.0)),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
                v2.RandomGrayscale(0.2),
                _blurred,
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(**IMAGENET),
            ]
        )

    def __call__(self, image: Image.Image) -> list[Tensor]:
        return [self.view(image), self.view(image)]


def _blurred(image: Image.Image) -> Image.Image:
    if random.random() >= 0.5:
        return image
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def batches(images: Tensor, size: int, batch: int, pinned: bool) -> Iterator[Pair]:
    """An epoch of lightly's views, by as many workers as there are cores.

    Args:
        images: uint8 [N, 3, H, W].
        size: Side of the views.
        batch: Images of a batch.
        pinned: Whether the batches go to a GPU.
    """
    make: Any = RestatedTransform if SimCLRTransform is None else SimCLRTransform
    dataset = PillowImages(images, make(input_size=size))
    workers = len(os.sched_getaffinity(0))
    loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pinned)
    for views in loader:
        yield views[0], views[1]


def steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[Pair],
    device: torch.device,
    half: bool,
) -> Iterator[Tensor]:
    """Trains as lightly's examples do, and gives the loss after each step.

    Args:
        network: Images to projections.
        optimizer: Of the network.
        stream: The views.
        device: Where the network is.
        half: Whether to run the forward in bfloat16.
    """
    loss = lightly_ntxent if SimCLRTransform is None else NTXentLoss(temperature=TEMPERATURE)
    for views in stream:
        first, second = (view.to(device, non_blocking=True) for view in views)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            value = loss(network(first), network(second))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield value.detach()
