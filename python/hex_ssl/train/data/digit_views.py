"""Random views of handwritten digits, one batch at a time, with separate random numbers for each image.

torchvision's v2 transforms draw once per call. Called for each image, they take about half a millisecond, many times
the training step on an 8x8 image. Called for a batch, they would rotate all its images by the same angle.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hex_ssl.train.data.draws import Draws


@dataclass(frozen=True)
class DigitView:
    """Random views of grey images in [0, 1]: affine map, contrast and brightness, noise, one erased square.

    There are no flips: a mirrored 2 is not a digit. The defaults suit handwritten digits of 8x8 pixels, and the
    geometric ones scale with the image.

    Args:
        rotation: Largest rotation in degrees.
        shear: Largest shear in degrees.
        translation: Largest shift as a fraction of the image side.
        scale: Smallest and largest magnification.
        contrast: Largest relative change of the grey values.
        brightness: Largest shift of the grey values.
        noise: Standard deviation of the noise on each pixel.
        erased: Side of the erased square as a fraction of the image side.

    Example:
        >>> from hex_ssl.train.data.draws import draw_keys
        >>> images = torch.rand(4, 1, 8, 8)
        >>> keys = draw_keys(seed=0, epoch=0, index=torch.arange(4))
        >>> view = DigitView()(images, keys)
        >>> view.shape
        torch.Size([4, 1, 8, 8])
        >>> torch.equal(view[2:3], DigitView()(images[2:3], keys[2:3]))
        True
    """

    rotation: float = 30.0
    shear: float = 15.0
    translation: float = 0.1
    scale: tuple[float, float] = (0.7, 1.2)
    contrast: float = 0.6
    brightness: float = 0.12
    noise: float = 0.1
    erased: float = 0.375

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """One random view of each image.

        Args:
            images: [N, C, S, S], floating point in [0, 1].
            keys: int64 [N], from `draw_keys`. They determine everything random.

        Returns:
            [N, C, S, S]. With the noise, values may lie outside [0, 1].
        """
        draw = Draws(keys)
        moved = self._move(images, draw)
        contrast = draw.between(1 - self.contrast, 1 + self.contrast)
        brightness = draw.between(-self.brightness, self.brightness)
        toned = (moved * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)).clamp(0.0, 1.0)
        return self._erase(toned + self.noise * draw.normal(*toned.shape[1:]).to(toned.dtype), draw)

    def _move(self, images: Tensor, draw: Draws) -> Tensor:
        angle = draw.between(-self.rotation, self.rotation) * math.pi / 180
        shear = torch.tan(draw.between(-self.shear, self.shear) * math.pi / 180)
        # affine_grid maps pixels of the view to pixels of the image, which needs the inverse of the magnification.
        # Its coordinates run from -1 to 1, so 2 is the whole side.
        shrink = 1 / draw.between(*self.scale)
        shift_x = 2 * draw.between(-self.translation, self.translation)
        shift_y = 2 * draw.between(-self.translation, self.translation)
        cosine, sine = shrink * angle.cos(), shrink * angle.sin()
        rows = [cosine, cosine * shear - sine, shift_x, sine, sine * shear + cosine, shift_y]
        maps = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.dtype)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _erase(self, images: Tensor, draw: Draws) -> Tensor:
        side = images.shape[-1]
        half = self.erased * side / 2
        pixels = torch.arange(side, device=images.device) + 0.5
        inside_x = (pixels - side * draw.between(0.0, 1.0)[:, None]).abs() < half
        inside_y = (pixels - side * draw.between(0.0, 1.0)[:, None]).abs() < half
        return images.masked_fill(inside_y[:, None, :, None] & inside_x[:, None, None, :], 0.0)
