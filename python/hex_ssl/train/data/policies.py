"""Which random views a method sees: solo-learn's augmentation policies, by name.

The order is: crop, colour jitter, grey, blur, solarise, flip. A view's size is the side of the images where they are
smaller than 224 pixels, else 224 (Kokilepersaud et al. 2025, section 7.3.2; there, all methods have solo-learn's
default policies).
"""

from dataclasses import dataclass
from typing import TypeAlias

from hex_ssl.train.data.digit_views import DigitView

SMALL_IMAGE = 64
"""The largest side in pixels at which "asymmetric" and "vicreg" mean their CIFAR variants."""

LARGEST_VIEW = 224
"""Side of the views of larger images."""


@dataclass(frozen=True)
class PhotoView:
    """How one view of a photograph is drawn.

    Args:
        crop_scale: Share of the image's area that is cropped, then resized to the view by bicubic interpolation.
        crop_ratio: Width of the crop / its height.
        jitter: Probability of the colour jitter.
        brightness, contrast, saturation: Its largest relative changes.
        hue: Its largest turn of the hue, as a share of the circle.
        grey: Probability that colours are removed.
        blur: Probability of a Gaussian blur.
        blur_sigma: Its standard deviation in pixels.
        solarize: Probability that all values from 128 on are inverted.
        flip: Probability that left and right change places.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    flip: float = 0.5


View: TypeAlias = PhotoView | DigitView
"""How one view is drawn."""

Policy: TypeAlias = tuple[View, ...]
"""How each of the views is drawn."""

_STRONG = PhotoView(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
_WEAK = PhotoView(blur=0.5)
# "asymmetric" and "vicreg" both jitter less in saturation than "symmetric_weak".
_VICREG = PhotoView(crop_scale=(0.2, 1.0), saturation=0.2, solarize=0.1)

POLICIES: dict[str, Policy] = {
    "symmetric": (_STRONG, _STRONG),
    "symmetric_weak": (_WEAK, _WEAK),
    "asymmetric_cifar": (PhotoView(saturation=0.2), PhotoView(saturation=0.2, solarize=0.2)),
    "asymmetric_imagenet": (PhotoView(saturation=0.2, blur=1.0), PhotoView(saturation=0.2, blur=0.1, solarize=0.2)),
    "vicreg_cifar": (_VICREG, _VICREG),
    "vicreg_imagenet": tuple(PhotoView(crop_scale=(0.2, 1.0), saturation=0.2, blur=0.5, solarize=0.1) for _ in "12"),
    # Its classes are told apart by directions, which flips would exchange, and by fine patterns, which a blur removes.
    "hierarchy": tuple(PhotoView(crop_scale=(0.4, 1.0), jitter=0.8, saturation=0.2, flip=0.0) for _ in "12"),
    "digits": (DigitView(), DigitView()),
}
"""The policies by name, each with its views. Source: solo-learn 9187ea3, scripts/pretrain."""

FAMILIES = ("asymmetric", "vicreg")
"""Names that stand for their CIFAR variant for views of up to 64 pixels, else for their ImageNet variant."""


def find_policy(name: str, image_size: int) -> Policy:
    """The policy of a name.

    Args:
        name: One of `POLICIES` or `FAMILIES`.
        image_size: Side of the views in pixels.

    Raises:
        ValueError: There is none of that name.

    Example:
        >>> find_policy("asymmetric", 32) == POLICIES["asymmetric_cifar"]
        True
    """
    if name in FAMILIES:
        name = f"{name}_cifar" if image_size <= SMALL_IMAGE else f"{name}_imagenet"
    if name not in POLICIES:
        choices = ", ".join(f'"{each}"' for each in ("auto", *FAMILIES, *POLICIES))
        raise ValueError(f'expected `data.augmentation` to be one of {choices}, but got "{name}"')
    return POLICIES[name]
