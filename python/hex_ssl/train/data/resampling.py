"""Crops, flips and blurs of a batch as matrices: each is linear in an image's rows, and in its columns.

Images are [N, H, C, W] here, rows first: a product with a matrix per image for the rows, and one for the columns, then
needs no copies of the matrices for the channels, nor of the images.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLUR_REACH = 11
"""Pixels that the blur looks at to each side: a window of 23, as DALI has in solo-learn's recipes."""

SMALLEST_EXPONENT = -80.0
"""A pixel whose weight in a blur is below exp of this, 2e-35, has none."""

NO_BLUR = 1e-3
"""Standard deviation in pixels at which all of a pixel's weight is on itself."""


class Boxes(NamedTuple):
    """A box in each of N images, in whole pixels.

    Attributes:
        corners: Top and left, floating point [2, N].
        sides: Height and width, floating point [2, N].
    """

    corners: Tensor
    sides: Tensor


def resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Each image's rows and columns mixed by a matrix of its own.

    Args:
        images: [N, H, C, W].
        rows: [N, S, H].
        columns: [N, T, W].

    Returns:
        [N, S, C, T].
    """
    count, height, channels, width = images.shape
    mixed = torch.bmm(rows, images.reshape(count, height, channels * width))
    mixed = torch.bmm(mixed.view(count, -1, width), columns.mT)
    return mixed.view(count, rows.shape[1], channels, columns.shape[1])


def crop_matrices(boxes: Boxes, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Matrices that crop and resize by antialiased bicubic interpolation, as torchvision's `resized_crop` does.

    Args:
        boxes: The boxes, in whole pixels.
        height, width: H and W of the images.
        size: S, the side of the crops.

    Returns:
        Those of the rows, float32 [N, S, H], and of the columns, [N, S, W].
    """
    device = boxes.sides.device
    # Both at once, along an axis as long as the longer side: beyond a box all weights are 0.
    extent = boxes.sides.view(2, -1, 1, 1)
    step = extent / size
    # Where the crop has fewer pixels than its box, the kernel is widened to average; where more, it interpolates.
    reach = step.clamp(min=1.0)
    centres = torch.arange(0.5, size, device=device).view(-1, 1) * step
    pixels = torch.arange(0.5, max(height, width), device=device) - boxes.corners.view(2, -1, 1, 1)
    weights = _cubic((pixels - centres) / reach) * ((pixels > 0) & (pixels < extent))
    rows, columns = (weights / weights.sum(dim=-1, keepdim=True)).unbind()
    return rows[..., :height], columns[..., :width]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, as in Pillow and in torch's antialiased interpolation."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (0.5 - 0.5 * x) * (2.0 - x).square()
    return torch.where(x < 1.0, near, far) * (x < 2.0)


def blur_matrices(sigma: Tensor, happens: Tensor, size: int) -> Tensor:
    """Matrices of a Gaussian blur; pixels at the border go on beyond it, as in Pillow.

    Args:
        sigma: Standard deviation in pixels, [N].
        happens: bool [N], whether an image is blurred; otherwise it stays as it is.
        size: S, the side of the images.

    Returns:
        Those of the rows and of the columns, which are the same, [N, S, S].
    """
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=sigma.device)
    exponents = -0.5 * (offsets / sigma.masked_fill(~happens, NO_BLUR).view(-1, 1)).square()
    # Weights below the normal numbers of float32 would slow the products down.
    exponents = F.threshold(exponents, SMALLEST_EXPONENT, -math.inf)
    # Each offset is a matrix of zeros and ones: the pixel that it reads for each pixel.
    pixels = torch.arange(size, device=sigma.device)
    read = (offsets.view(-1, 1) + pixels).clamp(0, size - 1)
    shifts = (read.view(-1, size, 1) == pixels).to(sigma.dtype)
    return (exponents.softmax(dim=1) @ shifts.view(len(offsets), -1)).view(-1, size, size)


def flipped(columns: Tensor, happens: Tensor) -> Tensor:
    """Matrices of the columns [N, S, W] that also mirror the images of which `happens` [N] is true."""
    return torch.where(happens.view(-1, 1, 1), columns.flip(1), columns)
