"""Views by torchvision's transforms, and the policies of solo-learn."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import POLICIES, DigitView, PhotoView, WorkerView, find_policy
from hex_ssl.train.data.policies import own_policy, view_sizes
from hex_ssl.train.data.worker_views import GaussianBlur

PICTURE = F.to_pil_image(torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)))


def test_steps_are_in_solo_learns_order() -> None:
    steps = WorkerView(PhotoView(blur=0.5, solarize=0.1), 32).transform.transforms
    assert [type(step).__name__ for step in steps] == [
        "RandomResizedCrop",
        "RandomApply",
        "RandomGrayscale",
        "RandomApply",
        "RandomSolarize",
        "RandomHorizontalFlip",
        "PILToTensor",
    ]
    assert isinstance(steps[1].transforms[0], v2.ColorJitter)
    assert isinstance(steps[3].transforms[0], GaussianBlur)
    assert (steps[4].threshold, steps[0].interpolation) == (128, v2.InterpolationMode.BICUBIC)


def test_blur_is_pillows_with_a_random_radius() -> None:
    torch.manual_seed(3)
    radius = float(torch.empty(1).uniform_(0.1, 2.0))
    torch.manual_seed(3)
    assert GaussianBlur((0.1, 2.0))(PICTURE) == PICTURE.filter(ImageFilter.GaussianBlur(radius))


def test_views_depend_only_on_their_keys() -> None:
    view = WorkerView(PhotoView(blur=0.5), 16)
    first = view(PICTURE, 1)
    torch.rand(5)
    assert torch.equal(view(PICTURE, 1), first)
    assert not torch.equal(view(PICTURE, 2), first)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_tensors_and_pil_images_give_the_same_view(mode: str) -> None:
    picture = PICTURE.convert(mode)
    view = WorkerView(PhotoView(), 16)
    found = view(F.pil_to_tensor(picture), 5)
    assert torch.equal(found, view(picture, 5))
    assert found.shape == (1 if mode == "L" else 3, 16, 16)


COMMON = {
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3 / 4, 4 / 3),
    "jitter": 0.8,
    "grey": 0.2,
    "blur_sigma": (0.1, 2.0),
    "flip": 0.5,
    "size": None,
}
NAMES = ("brightness", "contrast", "saturation", "hue", "blur", "solarize")


@pytest.mark.parametrize(
    ("name", "views", "scale"),
    [  # brightness, contrast, saturation, hue; blur; solarise
        ("symmetric", [(0.8, 0.8, 0.8, 0.2, 0.5, 0.0)] * 2, (0.08, 1.0)),
        ("symmetric_weak", [(0.4, 0.4, 0.4, 0.1, 0.5, 0.0)] * 2, (0.08, 1.0)),
        ("asymmetric_cifar", [(0.4, 0.4, 0.2, 0.1, 0.0, 0.0), (0.4, 0.4, 0.2, 0.1, 0.0, 0.2)], (0.08, 1.0)),
        ("asymmetric_imagenet", [(0.4, 0.4, 0.2, 0.1, 1.0, 0.0), (0.4, 0.4, 0.2, 0.1, 0.1, 0.2)], (0.08, 1.0)),
        ("vicreg_cifar", [(0.4, 0.4, 0.2, 0.1, 0.0, 0.1)] * 2, (0.2, 1.0)),
        ("vicreg_imagenet", [(0.4, 0.4, 0.2, 0.1, 0.5, 0.1)] * 2, (0.2, 1.0)),
    ],
)
def test_policies_are_solo_learns(name: str, views: list[tuple[float, ...]], scale: tuple[float, float]) -> None:
    expected = [{**COMMON, "crop_scale": scale, **dict(zip(NAMES, view, strict=True))} for view in views]
    assert [asdict(view) for view in POLICIES[name]] == expected


def test_families_depend_on_the_size_of_the_views() -> None:
    assert find_policy("vicreg", 64) is POLICIES["vicreg_cifar"]
    assert find_policy("asymmetric", 65) is POLICIES["asymmetric_imagenet"]
    assert all(isinstance(view, DigitView) for view in find_policy("digits", 8))
    with pytest.raises(
        ValueError, match='expected `data.augmentation` to be one of "auto", "asymmetric", .* got "none"'
    ):
        find_policy("none", 32)


def test_large_images_are_cropped_not_squeezed() -> None:
    """The left half is red and the right half blue. A crop of the whole image would always show both."""
    picture = Image.new("RGB", (400, 200), "red")
    picture.paste("blue", (200, 0, 400, 200))
    view = WorkerView(PhotoView(crop_scale=(0.08, 0.2), jitter=0, grey=0), 8)
    shown = [view(picture, key)[0].float().mean() / 255 for key in range(40)]
    assert min(shown) == 0.0
    assert max(shown) == 1.0


def test_own_views() -> None:
    policy = own_policy([{"crop_scale": [0.2, 1], "blur": 1, "count": 2}, {"size": 16, "flip": 0.0, "hue": 0.5}])
    large = PhotoView(crop_scale=(0.2, 1.0), blur=1.0)
    assert policy == (large, large, PhotoView(size=16, flip=0.0, hue=0.5))
    assert view_sizes(policy, 32) == (32, 32, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blurr": 1}, r"settings of a view in `data.views\[1\]`, but got blurr; did you mean"),
        ({"blur": 1.5}, r"`data.views\[1\].blur` to be in \[0, 1\], but got 1.5"),
        ({"brightness": -0.1}, r"`data.views\[1\].brightness` to be in \[0, inf\], but got -0.1"),
        ({"hue": 0.6}, r"`data.views\[1\].hue` to be in \[0, 0.5\], but got 0.6"),
        ({"flip": [0.5]}, r"`data.views\[1\].flip` to be in \[0, 1\], but got \[0.5\]"),
        (
            {"crop_scale": 0.2},
            r"`data.views\[1\].crop_scale` to be two numbers in \[0.001, 1\], the smaller .* got 0.2",
        ),
        ({"crop_scale": [0.0, 1.0]}, r"`data.views\[1\].crop_scale` to be two numbers .* but got \[0.0, 1.0\]"),
        ({"blur_sigma": [2.0, 0.1]}, r"`data.views\[1\].blur_sigma` to be two numbers .* but got \[2.0, 0.1\]"),
        ({"size": 3}, r"`data.views\[1\].size` to be a whole number of at least 4, but got 3"),
        ({"count": 1.0}, r"`data.views\[1\].count` to be a whole number of at least 1, but got 1.0"),
        ({"solarize": float("nan")}, r"`data.views\[1\].solarize` to be in \[0, 1\], but got nan"),
        ({"brightness": float("inf")}, r"`data.views\[1\].brightness` to be in \[0, inf\], but got inf"),
    ],
)
def test_settings_of_views_that_are_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_policy([{}, settings])


def test_one_view_is_too_few() -> None:
    with pytest.raises(ValueError, match="expected `data.views` to give at least 2 views of each image, but got 1"):
        own_policy([{}])
    message = 'expected `data.augmentation` to be "auto" with `data.views`, but got "symmetric"'
    with pytest.raises(ValueError, match=message):
        DataConfig(augmentation="symmetric", views=[{}, {}])
