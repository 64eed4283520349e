"""Augmentation policies by name, most of them solo-learn's: how the random views of an image are drawn.

The order is: crop, colour jitter, grey, blur, solarise, flip. By default, views are as large as the images, but at most
224 pixels (Kokilepersaud et al. 2025, section 7.3.2, where all methods use solo-learn's default policies).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from hex_ssl.train.data.digit_views import DigitView
from hex_ssl.train.suggestions import suggest

SMALL_IMAGE = 64
"""The largest side in pixels at which "asymmetric" and "vicreg" stand for their CIFAR variants."""

SMALLEST_VIEW = 4
"""The smallest side of a view in pixels."""

SMALLEST_NUMBER = 1e-3
"""The smallest area share, aspect ratio or standard deviation, none of which may be 0."""

LARGEST_VIEW = 224
"""The largest default side of a view in pixels."""


@dataclass(frozen=True)
class PhotoView:
    """How one view of a photograph is drawn.

    Args:
        crop_scale: Smallest and largest area of the crop as a fraction of the image. The crop is resized to the view by
            bicubic interpolation.
        crop_ratio: Smallest and largest aspect ratio (width / height) of the crop.
        jitter: Probability of the colour jitter.
        brightness, contrast, saturation: Largest relative changes by the colour jitter.
        hue: Largest shift of the hue by the colour jitter, as a fraction of the colour circle.
        grey: Probability of conversion to grey.
        blur: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur in pixels.
        solarize: Probability that all values of at least 128 (of 255) are inverted.
        flip: Probability of a horizontal flip.
        size: Side of the view in pixels. With None, the view has the run's image size, `data.image_size`.
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
    size: int | None = None


View: TypeAlias = PhotoView | DigitView
"""How one view is drawn."""

Policy: TypeAlias = tuple[View, ...]
"""How each view of an image is drawn."""

_STRONG = PhotoView(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
_WEAK = PhotoView(blur=0.5)
# "asymmetric" and "vicreg" both change the saturation less than "symmetric_weak".
_VICREG = PhotoView(crop_scale=(0.2, 1.0), saturation=0.2, solarize=0.1)

POLICIES: dict[str, Policy] = {
    "symmetric": (_STRONG, _STRONG),
    "symmetric_weak": (_WEAK, _WEAK),
    "asymmetric_cifar": (PhotoView(saturation=0.2), PhotoView(saturation=0.2, solarize=0.2)),
    "asymmetric_imagenet": (PhotoView(saturation=0.2, blur=1.0), PhotoView(saturation=0.2, blur=0.1, solarize=0.2)),
    "vicreg_cifar": (_VICREG, _VICREG),
    "vicreg_imagenet": tuple(PhotoView(crop_scale=(0.2, 1.0), saturation=0.2, blur=0.5, solarize=0.1) for _ in "12"),
    # No flips, which would change the directions of the waves, and no blur, which would remove fine patterns: both
    # distinguish the classes.
    "hierarchy": tuple(PhotoView(crop_scale=(0.4, 1.0), jitter=0.8, saturation=0.2, flip=0.0) for _ in "12"),
    "digits": (DigitView(), DigitView()),
}
"""The policies by name, each with its views. Source of all but "hierarchy" and "digits": solo-learn 9187ea3,
scripts/pretrain."""

FAMILIES = ("asymmetric", "vicreg")
"""Names that stand for their CIFAR variant for views of up to 64 pixels, and for their ImageNet variant otherwise."""


def find_policy(name: str, image_size: int) -> Policy:
    """The policy with the given name.

    Args:
        name: One of `POLICIES` or `FAMILIES`.
        image_size: Side of the views in pixels.

    Raises:
        ValueError: No policy has this name.

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


def view_sizes(policy: Policy, image_size: int) -> tuple[int, ...]:
    """Side of each view of a policy in pixels.

    Args:
        policy: The views.
        image_size: Side of the views that have no size of their own.
    """
    sizes = [view.size if isinstance(view, PhotoView) else None for view in policy]
    return tuple(image_size if size is None else size for size in sizes)


PROBABILITIES = ("jitter", "grey", "blur", "solarize", "flip")
STRENGTHS = ("brightness", "contrast", "saturation", "hue")
HIGHEST = {"crop_scale": 1.0, "hue": 0.5, **dict.fromkeys(PROBABILITIES, 1.0)}
"""The highest values of the settings of a view that have an upper limit."""


def own_policy(views: Sequence[Mapping[str, Any]]) -> Policy:
    """A policy from the settings in `data.views`.

    Args:
        views: For each view, settings of `PhotoView`, and optionally `count`, the number of such views.

    Raises:
        ValueError: A setting is unknown or out of range, or there are fewer than two views.

    Example:
        >>> large, _, small, *_ = own_policy([{"count": 2}, {"crop_scale": [0.05, 0.14], "size": 96, "count": 6}])
        >>> large == PhotoView(), small.size
        (True, 96)
    """
    made: list[View] = []
    for number, settings in enumerate(views):
        known = [*(each.name for each in fields(PhotoView)), "count"]
        if unknown := [name for name in settings if name not in known]:
            raise ValueError(
                f"expected settings of a view in `data.views[{number}]`, but got {', '.join(unknown)}"
                f"{suggest(unknown, known)}"
            )
        checked = {name: _checked(f"data.views[{number}].{name}", name, value) for name, value in settings.items()}
        made += [PhotoView(**{name: each for name, each in checked.items() if name != "count"})] * checked.get(
            "count", 1
        )
    if len(made) < 2:
        raise ValueError(f"expected `data.views` to give at least 2 views of each image, but got {len(made)}")
    return tuple(made)


def _checked(place: str, name: str, value: Any) -> Any:
    if name in ("size", "count"):
        least = 1 if name == "count" else SMALLEST_VIEW
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"expected `{place}` to be a whole number of at least {least}, but got {value}")
        return value
    numbers = value if isinstance(value, (list, tuple)) else [value]
    low, high = float(name in ("crop_ratio", "crop_scale", "blur_sigma")) * SMALLEST_NUMBER, HIGHEST.get(name, math.inf)
    pair = isinstance(getattr(PhotoView, name), tuple)
    described = f"two numbers in [{low:g}, {high:g}], the smaller one first" if pair else f"in [{low:g}, {high:g}]"
    fits = len(numbers) == 1 + pair and isinstance(value, (list, tuple)) == pair
    if not (
        fits and all(low <= each <= high and each < math.inf for each in numbers) and sorted(numbers) == [*numbers]
    ):
        raise ValueError(f"expected `{place}` to be {described}, but got {value}")
    return tuple(map(float, numbers)) if pair else float(value)
