"""The input of a method: the views of a batch of images, their labels and their rows."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of N images.

    Attributes:
        views: The views, each [N, C, S, S], floating point, normalised. Row i of each view shows image i.
        labels: int64 [N], the classes, -1 for images without a label.
        indices: int64 [N], the rows of the images in the training split.

    Example:
        >>> import torch
        >>> image = torch.rand(2, 3, 8, 8)
        >>> batch = Batch((image, image.flip(-1)), torch.tensor([0, -1]), torch.tensor([5, 2]))
        >>> len(batch.views), batch.labels.tolist()
        (2, [0, -1])
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor
