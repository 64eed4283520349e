"""Crops, flips and blurs of a batch as matrix products. Each is linear in an image's rows and in its columns.

Images are [N, H, C, W] here. In this layout, multiplying each image by one matrix for its rows and one for its columns
copies neither the matrices for each channel nor the images.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLUR_REACH = 11
"""Pixels that the blur reads to each side. The window of 23 pixels is that of DALI in solo-learn's recipes."""

SMALLEST_EXPONENT = -80.0
"""Pixels whose weight in a blur is below exp(SMALLEST_EXPONENT), 2e-35, get the weight 0."""

NO_BLUR = 1e-3
"""Standard deviation in pixels at which the blur leaves the image unchanged."""


class Boxes(NamedTuple):
    """A box in each of N images, in whole pixels.

    Attributes:
        corners: Top and left, floating point [2, N].
        sides: Height and width, floating point [2, N].
    """

    corners: Tensor
    sides: Tensor


def resampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiplies the rows and the columns of each image by its own matrices.

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
        The matrices of the rows, float32 [N, S, H], and of the columns, float32 [N, S, W].
    """
    device = boxes.sides.device
    # Rows and columns are computed together, along an axis as long as the longer side. Weights outside a box are 0.
    extent = boxes.sides.view(2, -1, 1, 1)
    step = extent / size
    # When downsampling, the kernel is widened so that it averages (antialiasing).
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
    """Matrices of a Gaussian blur. As in Pillow, the pixels at the border are repeated beyond it.

    Args:
        sigma: Standard deviation in pixels, [N].
        happens: bool [N], which images are blurred. The others stay unchanged.
        size: S, the side of the images.

    Returns:
        [N, S, S], the matrices for the rows and also for the columns.
    """
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=sigma.device)
    exponents = -0.5 * (offsets / sigma.masked_fill(~happens, NO_BLUR).view(-1, 1)).square()
    # Products with weights below float32's normal numbers would be many times slower.
    exponents = F.threshold(exponents, SMALLEST_EXPONENT, -math.inf)
    # For each offset, a matrix of zeros and ones that marks the pixel read for each output pixel.
    pixels = torch.arange(size, device=sigma.device)
    read = (offsets.view(-1, 1) + pixels).clamp(0, size - 1)
    shifts = (read.view(-1, size, 1) == pixels).to(sigma.dtype)
    return (exponents.softmax(dim=1) @ shifts.view(len(offsets), -1)).view(-1, size, size)


def flipped(columns: Tensor, happens: Tensor) -> Tensor:
    """The column matrices [N, S, W], changed so that they also mirror the images for which `happens` [N] is true."""
    return torch.where(happens.view(-1, 1, 1), columns.flip(1), columns)
