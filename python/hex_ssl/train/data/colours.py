"""Colour jitter, grey and solarisation of a batch, with separate random numbers for each image.

Every step processes all images, with factors that leave some unchanged. Selecting rows of the batch would wait for the
device. Images are [N, H, C, W], as in `resampling`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, as in torchvision."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

PARTS = 4
"""Parts of the jitter's sequence: before contrast and hue, between them (one part for either order), and after both."""

HUES_PART = 2
"""The hue is changed before this part."""


class Jitter(NamedTuple):
    """Colour jitter of N images.

    Attributes:
        brightness, contrast, saturation: Factors, each [N].
        hue: Shift of the hue as a fraction of the colour circle, [N].
        order: [N, 4], sort keys of brightness, contrast, saturation and hue. The smallest comes first.
        happens: bool [N], whether the image is jittered.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    happens: Tensor


def jittered(images: Tensor, jitter: Jitter) -> Tensor:
    """Changes brightness, contrast, saturation and hue in a separate order for each image.

    All images go through one sequence that contains every order: four parts with brightness, saturation and brightness
    again, with the contrast before the second and the fourth part and the hue in the middle. A factor is 1 wherever
    the image's own order does not have this step.

    Args:
        images: [N, H, C, W] in [0, 1], with C = 1 or 3.
        jitter: The factors and the order of each image.

    Returns:
        [N, H, C, W] in [0, 1].
    """
    for number, (brightness, contrast, saturation, brightness_after) in enumerate(_parts(jitter, images.dtype)):
        if number == HUES_PART and images.shape[2] == 3:
            turned = hue_turned(images, jitter.hue.to(images.dtype))
            images = torch.where(_wide(jitter.happens), turned, images)
        if number % 2:
            mean = grey_of(images.mean(dim=(1, 3), keepdim=True))
            images = torch.lerp(mean, images, contrast).clamp(0.0, 1.0)
        images = (brightness * images).clamp(0.0, 1.0)
        images = torch.lerp(grey_of(images), images, saturation).clamp(0.0, 1.0)
        images = (brightness_after * images).clamp(0.0, 1.0)
    return images


def _parts(jitter: Jitter, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    """Factors of brightness, contrast, saturation and brightness again in each of the parts, each [N, 1, 1, 1]."""
    earlier = jitter.order[:, :, None] <= jitter.order[:, None, :]  # [N, i, j]: i comes before j, or is j
    # The part of brightness and saturation depends on whether contrast and hue come before them. The contrast is in
    # the second part if the hue comes later, and in the fourth otherwise.
    part = earlier[:, CONTRAST, :HUE] + 2 * earlier[:, HUE, :HUE]
    places = torch.arange(PARTS, device=part.device).view(-1, 1, 1) == part
    brightness, contrast, saturation = places.unbind(dim=2)
    first = brightness & earlier[:, BRIGHTNESS, SATURATION]
    own = torch.stack((first, contrast, saturation, brightness & ~first), dim=1) & jitter.happens  # [parts, 4, N]
    factors = torch.stack((jitter.brightness, jitter.contrast, jitter.saturation, jitter.brightness))
    each = (1.0 + own * (factors - 1.0)).to(dtype).view(PARTS * 4, -1, 1, 1, 1).unbind()
    return [each[4 * number : 4 * number + 4] for number in range(PARTS)]


def hue_turned(images: Tensor, turn: Tensor) -> Tensor:
    """Shifts the hue and keeps saturation and value.

    Args:
        images: [N, H, 3, W] in [0, 1].
        turn: [N], the shift as a fraction of the colour circle, in [-0.5, 0.5].

    Returns:
        [N, H, 3, W] in [0, 1].
    """
    value = images.amax(dim=2, keepdim=True)
    chroma = value - images.amin(dim=2, keepdim=True)
    red, green, blue = images.split(1, dim=2)
    # The hue in sixths of the circle: given by the largest channel and the difference of the other two.
    safe = chroma.clamp(min=torch.finfo(images.dtype).tiny)
    pull = torch.where(value == green, (blue - red).add(safe, alpha=2.0), (red - green).add(safe, alpha=4.0))
    hue = torch.where(value == red, green - blue, pull) / safe + _wide(6.0 * turn)
    # Each channel of a hue is a trapezium along the circle, shifted by two sixths.
    place = hue + torch.arange(5.0, 0.0, -2.0, device=images.device, dtype=images.dtype).view(-1, 1)
    # The remainder by 6, written out because torch.compile does not vectorise `%` on a CPU.
    place = place.sub(torch.div(place, 6.0, rounding_mode="floor"), alpha=6.0)
    return torch.addcmul(value, chroma, torch.minimum(place, 4.0 - place).clamp(0.0, 1.0), value=-1.0)


def grey_of(images: Tensor) -> Tensor:
    """The luminance [N, H, 1, W] of colour images [N, H, 3, W]. Grey images are returned unchanged."""
    if images.shape[2] == 1:
        return images
    red, green, blue = images.split(1, dim=2)
    return (LUMA[0] * red).add(green, alpha=LUMA[1]).add(blue, alpha=LUMA[2])


def greyed(images: Tensor, happens: Tensor) -> Tensor:
    """Converts images to grey where `happens` (bool [N]) is true."""
    return torch.where(_wide(happens), grey_of(images), images)


def solarized(images: Tensor, happens: Tensor) -> Tensor:
    """Inverts all values of at least 128 / 255 where `happens` (bool [N]) is true. Images are in [0, 1]."""
    return torch.where(_wide(happens) & (images >= 128 / 255), 1.0 - images, images)


def _wide(numbers: Tensor) -> Tensor:
    """Reshapes [N] to [N, 1, 1, 1]."""
    return numbers.view(-1, 1, 1, 1)
