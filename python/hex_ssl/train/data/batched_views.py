"""Views of a batch of photographs, on the device, with separate random numbers for each image.

torchvision's v2 transforms draw once per call, so all images of a batch would get the same crop, jitter and blur
(pytorch/vision#2929). Here each step takes one number per image. The CPU never waits for the device: no shape depends
on random numbers, and every image goes through every step, which leaves the image unchanged if it is not to be applied.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hex_ssl.train.data.colours import Jitter, greyed, jittered, solarized
from hex_ssl.train.data.draws import Draws, between
from hex_ssl.train.data.policies import PhotoView
from hex_ssl.train.data.resampling import Boxes, blur_matrices, crop_matrices, flipped, resampled

CROP_ATTEMPTS = 10

DRAWN_BESIDE_THE_CROP = 14
"""Random numbers per image: nine for the jitter, and five for grey, blur (two), solarisation and flip."""


@dataclass(frozen=True)
class BatchedView:
    """One random view of each image of a batch.

    Args:
        view: How the view is drawn.
        size: S, the side of the view in pixels.
        crop: Whether to crop. With False, the images are already crops.

    Example:
        >>> from hex_ssl.train.data.draws import draw_keys
        >>> draw = BatchedView(PhotoView(), size=24)
        >>> images, keys = torch.rand(4, 3, 32, 32), draw_keys(seed=0, epoch=0, index=torch.arange(4))
        >>> draw(images, keys).shape
        torch.Size([4, 3, 24, 24])
    """

    view: PhotoView
    size: int
    crop: bool = True
    _log_ratio: tuple[float, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_log_ratio", logarithms(self.view.crop_ratio))

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Floating point [N, C, S, S] in [0, 1].

        Args:
            images: [N, C, H, W], floating point in [0, 1], with C = 1 or 3. Without `crop`, [N, C, S, S].
            keys: int64 [N], from `draw_keys`, on the device of `images`. They determine everything random.
        """
        height, width = images.shape[2:]
        draws = Draws(keys, ahead=DRAWN_BESIDE_THE_CROP + self.crop * (2 * CROP_ATTEMPTS + 2))
        view = self.view
        boxes = (
            draw_crops(draws, height, width, view.crop_scale, view.crop_ratio, self._log_ratio) if self.crop else None
        )
        drawn = _draw(view, draws)
        images = images.transpose(1, 2)
        if boxes is not None:
            rows, columns = (each.to(images.dtype) for each in crop_matrices(boxes, height, width, self.size))
            # No later step depends on left and right, so the flip can be part of the crop's matrix.
            images = resampled(images, rows, flipped(columns, drawn.flip)).clamp(0.0, 1.0)
        if view.jitter > 0:
            images = jittered(images, drawn.jitter)
        if view.grey > 0:
            images = greyed(images, drawn.grey)
        if view.blur > 0:
            blurs = blur_matrices(drawn.sigma, drawn.blur, images.shape[-1]).to(images.dtype)
            images = resampled(images, blurs, blurs)
        if view.solarize > 0:
            images = solarized(images, drawn.solarize)
        if boxes is None and view.flip > 0:
            images = torch.where(drawn.flip[:, None, None, None], images.flip(-1), images)
        return images.transpose(1, 2)


class _Drawn(NamedTuple):
    """The random numbers of each image besides its crop. Tensors are bool [N], but `sigma` is float32 [N]."""

    jitter: Jitter
    grey: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor
    flip: Tensor


def _draw(view: PhotoView, draws: Draws) -> _Drawn:
    numbers = draws.uniform(DRAWN_BESIDE_THE_CROP)
    order = numbers[:, 4:8]
    brightness, contrast, saturation, hue, *_, jitter, grey, blur, sigma, solarize, flip = numbers.unbind(dim=1)
    brightness, contrast, saturation = (
        between(number, max(0.0, 1.0 - largest), 1.0 + largest)
        for number, largest in ((brightness, view.brightness), (contrast, view.contrast), (saturation, view.saturation))
    )
    hue = between(hue, -view.hue, view.hue)
    return _Drawn(
        Jitter(brightness, contrast, saturation, hue, order, jitter < view.jitter),
        grey=grey < view.grey,
        blur=blur < view.blur,
        sigma=between(sigma, *view.blur_sigma),
        solarize=solarize < view.solarize,
        flip=flip < view.flip,
    )


def logarithms(ratio: tuple[float, float]) -> tuple[float, float]:
    """Logarithms of the smallest and the largest aspect ratio, computed in float32 as torchvision does."""
    low, high = torch.tensor(ratio).log().tolist()
    return low, high


def draw_crops(
    draws: Draws,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    log_ratio: tuple[float, float] | None = None,
) -> Boxes:
    """Boxes with the distribution of torchvision's RandomResizedCrop: the first of ten that fits, otherwise the centre.

    Args:
        draws: Source of the random numbers.
        height, width: Height and width of the images.
        scale: Smallest and largest area as a fraction of the image.
        ratio: Smallest and largest aspect ratio (width / height).
        log_ratio: `logarithms(ratio)`, if already computed.

    Example:
        >>> from hex_ssl.train.data.draws import draw_keys
        >>> draws = Draws(draw_keys(seed=0, epoch=0, index=torch.arange(3)))
        >>> boxes = draw_crops(draws, 24, 32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
        >>> boxes.corners.tolist(), boxes.sides.tolist()
        ([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]], [[24.0, 24.0, 24.0], [24.0, 24.0, 24.0]])
    """
    low, high = log_ratio or logarithms(ratio)
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * draws.uniform(CROP_ATTEMPTS))
    ratios = (low + (high - low) * draws.uniform(CROP_ATTEMPTS)).exp()
    tried = torch.stack((areas / ratios, areas * ratios)).sqrt().round()  # [2, N, attempts]
    heights, widths = tried.unbind()
    misses = (tried.amin(dim=0) <= 0) | (heights > height) | (widths > width)
    none, first = misses.all(dim=1), misses.int().argmin(dim=1)
    heights, widths = tried.gather(2, first.view(1, -1, 1).expand(2, -1, 1)).squeeze(2).unbind()
    heights = heights.masked_fill(none, float(min(height, round(width / ratio[0]))))
    widths = widths.masked_fill(none, float(min(width, round(height * ratio[1]))))
    free = torch.stack((height - heights, width - widths))
    corners = (draws.uniform(2).mT * (free + 1)).floor()
    return Boxes(torch.where(none, (free / 2).floor(), corners), torch.stack((heights, widths)))
