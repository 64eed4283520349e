"""Views of one photograph by torchvision's v2 transforms, in the DataLoader workers."""

from typing import Any, cast

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hex_ssl.train.data.draws import seeded
from hex_ssl.train.data.policies import PhotoView

SOLARIZE_FROM = 128


class GaussianBlur(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Pillow's Gaussian blur with a random radius, as in solo-learn. torchvision's blur has a fixed kernel size.

    Args:
        sigma: Smallest and largest standard deviation in pixels.
    """

    def __init__(self, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, float]:
        """Draws the standard deviation."""
        return {"radius": float(torch.empty(1).uniform_(*self.sigma))}

    def transform(self, inpt: Any, params: dict[str, float]) -> Any:
        """Blurs a PIL image."""
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


class WorkerView:
    """One random view of an image. A key determines everything random.

    Args:
        view: How the view is drawn.
        size: S, the side of the view in pixels.

    Example:
        >>> draw = WorkerView(PhotoView(), size=32)
        >>> image = Image.new("RGB", (60, 40), "red")
        >>> draw(image, key=1).shape, torch.equal(draw(image, key=1), draw(image, key=1))
        (torch.Size([3, 32, 32]), True)
    """

    def __init__(self, view: PhotoView, size: int) -> None:
        crop = v2.RandomResizedCrop(size, view.crop_scale, view.crop_ratio, v2.InterpolationMode.BICUBIC)
        self.transform = v2.Compose([crop, *_after_crop(view), v2.PILToTensor()])

    def __call__(self, image: Image.Image | Tensor, key: int) -> Tensor:
        """The view, uint8 [C, S, S].

        Args:
            image: A PIL image, or a tensor [C, H, W], uint8 in [0, 255] or float32 in [0, 1].
            key: Any 64 bits.
        """
        pillow = F.to_pil_image(image) if isinstance(image, Tensor) else image
        with seeded(key):
            return cast(Tensor, self.transform(pillow))


def _after_crop(view: PhotoView) -> list[v2.Transform]:
    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    steps = [
        (view.jitter, v2.RandomApply([jitter], view.jitter)),
        (view.grey, v2.RandomGrayscale(view.grey)),
        (view.blur, v2.RandomApply([GaussianBlur(view.blur_sigma)], view.blur)),
        (view.solarize, v2.RandomSolarize(SOLARIZE_FROM, view.solarize)),
        (view.flip, v2.RandomHorizontalFlip(view.flip)),
    ]
    return [step for probability, step in steps if probability > 0]
