"""What a method gets: the views of a batch of images, their labels, and which images they are."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of N images.

    Attributes:
        views: The views, each [N, C, S, S], floating point, normalised; row i of each shows image i.
        labels: int64 [N], the classes, -1 for images without one.
        indices: int64 [N], the images' rows in the training split.

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
