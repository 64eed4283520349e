"""The random crop of a photograph, by the DataLoader workers. The device does the other steps of the view."""

import math
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from hex_ssl.train.data.batched_views import CROP_ATTEMPTS, logarithms
from hex_ssl.train.data.policies import PhotoView

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


class WorkerCrop:
    """One random crop of an image, resized to the size of a view. A key determines the box.

    The boxes are those of torchvision's RandomResizedCrop after `torch.manual_seed(key)`. Pillow resizes PIL images and
    torch resizes tensors. The two differ by rounding.

    Args:
        view: How the view is drawn.
        size: S, the side of the view in pixels.

    Example:
        >>> crop = WorkerCrop(PhotoView(), size=32)
        >>> crop(torch.zeros(3, 40, 60, dtype=torch.uint8), key=1).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, view: PhotoView, size: int) -> None:
        self.view = view
        self.size = size
        self.log_ratio = logarithms(view.crop_ratio)
        self._generator: Any = None  # created on first use, because a generator cannot be pickled for a worker

    def __call__(self, image: Image.Image | Tensor, key: int) -> Tensor:
        """uint8 [C, S, S].

        Args:
            image: A PIL image, or a tensor [C, H, W], uint8 in [0, 255] or float32 in [0, 1].
            key: Any 64 bits.
        """
        if isinstance(image, Tensor) and image.dtype != torch.uint8:
            image = V.to_pil_image(image)
        size = [self.size, self.size]
        if isinstance(image, Image.Image):
            box = self.box(image.height, image.width, key)
            return cast(Tensor, V.pil_to_tensor(V.resized_crop(image, *box, size, InterpolationMode.BICUBIC)))
        top, left, height, width = self.box(image.shape[1], image.shape[2], key)
        # Contiguous and channels last: torch has a fast uint8 kernel for this layout.
        crop = image[None, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
        return F.interpolate(crop, size, mode="bicubic", antialias=True)[0]

    def box(self, height: int, width: int, key: int) -> Box:
        """The box of the crop: the first of ten random boxes that fits, otherwise the centre.

        Args:
            height, width: Height and width of the image.
            key: Any 64 bits.
        """
        if self._generator is None:
            self._generator = torch.Generator()
        draw = self._generator.manual_seed(key)
        number = torch.empty(1)
        for _ in range(CROP_ATTEMPTS):
            area = height * width * number.uniform_(*self.view.crop_scale, generator=draw).item()
            ratio = number.uniform_(*self.log_ratio, generator=draw).exp_().item()
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top = torch.randint(0, height - rows + 1, (1,), generator=draw).item()
                left = torch.randint(0, width - columns + 1, (1,), generator=draw).item()
                return int(top), int(left), rows, columns
        return _middle(height, width, self.view.crop_ratio)


def _middle(height: int, width: int, ratio: tuple[float, float]) -> Box:
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns
