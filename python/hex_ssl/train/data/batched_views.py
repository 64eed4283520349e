"""Views of a batch of photographs at once, on the device, with a draw of its own for each image.

torchvision's v2 transforms draw once per call, so that all images of a batch would get the same crop, jitter and blur
(pytorch/vision#2929). Here each step takes a number per image. Crop and blur are linear in the image's rows and in
its columns: two matrices per image, so that a whole batch is two batched matrix products.
"""

import torch
from torch import Tensor

from hex_ssl.train.data.draws import Draws
from hex_ssl.train.data.policies import PhotoView

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, torchvision's."""

CROP_ATTEMPTS = 10
BLUR_REACH = 11
"""Pixels that the blur looks at to each side: a window of 23, as DALI has in solo-learn's recipes."""


class BatchedView:
    """One random view of each image of a batch.

    Args:
        view: How it is drawn.
        size: S, its side in pixels.
        crop: Whether to crop; otherwise the images are crops already.

    Example:
        >>> from hex_ssl.train.data.draws import draw_keys
        >>> draw = BatchedView(PhotoView(), size=24)
        >>> images, keys = torch.rand(4, 3, 32, 32), draw_keys(seed=0, epoch=0, index=torch.arange(4))
        >>> draw(images, keys).shape
        torch.Size([4, 3, 24, 24])
    """

    def __init__(self, view: PhotoView, size: int, crop: bool = True) -> None:
        self.view = view
        self.size = size
        self.crop = crop

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Float32 [N, C, S, S] in [0, 1].

        Args:
            images: [N, C, H, W], floating point in [0, 1]; C is 1 or 3.
            keys: int64 [N], of `draw_keys`, on the images' device; all that is random follows from them.
        """
        view, draws = self.view, Draws(keys)
        if self.crop:
            boxes = draw_crops(draws, images.shape[2], images.shape[3], view.crop_scale, view.crop_ratio)
            images = resized_crops(images, boxes, self.size)
        images = self._jitter(images, draws)
        images = _where(draws.happens(view.grey), grey_of(images).expand_as(images), images)
        images = self._blur(images, draws)
        images = _where(draws.happens(view.solarize), solarized(images), images)
        return _where(draws.happens(view.flip), images.flip(-1), images)

    def _jitter(self, images: Tensor, draws: Draws) -> Tensor:
        view = self.view
        factors = [
            draws.between(max(0.0, 1.0 - largest), 1.0 + largest)
            for largest in (view.brightness, view.contrast, view.saturation)
        ]
        factors.append(draws.between(-view.hue, view.hue))
        order, jittered = draws.permutation(len(factors)), draws.happens(view.jitter)
        images = images.clone()
        for place in range(len(factors)):
            for kind, (adjust, factor) in enumerate(zip(ADJUSTMENTS, factors, strict=True)):
                # Rows are picked, not masked: each image goes through each adjustment once.
                rows = (jittered & (order[:, place] == kind)).nonzero().flatten()
                images[rows] = adjust(images[rows], factor[rows])
        return images

    def _blur(self, images: Tensor, draws: Draws) -> Tensor:
        rows = draws.happens(self.view.blur).nonzero().flatten()
        sigma = draws.between(*self.view.blur_sigma)
        if len(rows) == 0:
            return images
        images = images.clone()
        images[rows] = blurred(images[rows], sigma[rows])
        return images


def draw_crops(
    draws: Draws, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes as torchvision's RandomResizedCrop draws them: of ten, the first that fits, else the middle.

    Args:
        draws: Where the draws come from.
        height, width: Of the images.
        scale: Smallest and largest share of the area.
        ratio: Smallest and largest width / height.

    Returns:
        Top, left, height and width in whole pixels, each float32 [N].

    Example:
        >>> from hex_ssl.train.data.draws import draw_keys
        >>> draws = Draws(draw_keys(seed=0, epoch=0, index=torch.arange(5)))
        >>> top, left, height, width = draw_crops(draws, 32, 32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
        >>> top.tolist(), width.tolist()
        ([0.0, 0.0, 0.0, 0.0, 0.0], [32.0, 32.0, 32.0, 32.0, 32.0])
    """
    low, high = torch.tensor(ratio).log().tolist()
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * draws.uniform(CROP_ATTEMPTS))
    ratios = (low + (high - low) * draws.uniform(CROP_ATTEMPTS)).exp()
    widths, heights = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    middle_width = float(min(width, round(height * ratio[1])))
    middle_height = float(min(height, round(width / ratio[0])))
    crop_width = widths.gather(1, first).squeeze(1).where(found, torch.full_like(ratios[:, 0], middle_width))
    crop_height = heights.gather(1, first).squeeze(1).where(found, torch.full_like(ratios[:, 0], middle_height))
    free_y, free_x = height - crop_height, width - crop_width
    top = (draws.uniform() * (free_y + 1)).floor().where(found, (free_y / 2).floor())
    left = (draws.uniform() * (free_x + 1)).floor().where(found, (free_x / 2).floor())
    return top, left, crop_height, crop_width


def resized_crops(images: Tensor, boxes: tuple[Tensor, Tensor, Tensor, Tensor], size: int) -> Tensor:
    """A crop of each image, resized by antialiased bicubic interpolation: torchvision's `resized_crop`, box by box.

    Args:
        images: [N, C, H, W], floating point in [0, 1].
        boxes: Top, left, height and width, each [N].
        size: S.

    Returns:
        [N, C, S, S] in [0, 1]. (The interpolation may leave it; as for images of 8 bits, it is cut off there.)
    """
    top, left, height, width = boxes
    rows = _resampling(top, height, images.shape[2], size).to(images.dtype)
    columns = _resampling(left, width, images.shape[3], size).to(images.dtype)
    return (rows[:, None] @ images @ columns[:, None].mT).clamp(0.0, 1.0)


def _resampling(start: Tensor, extent: Tensor, length: int, size: int) -> Tensor:
    """Weights [N, S, L] of an axis's L pixels in the S pixels that the part from `start` on is resized to."""
    step = (extent / size)[:, None, None]
    # Where the view has more pixels than the crop, the kernel interpolates; where fewer, it is widened to average.
    reach = step.clamp(min=1.0)
    centres = (torch.arange(size, device=start.device) + 0.5)[None, :, None] * step
    pixels = (torch.arange(length, device=start.device) + 0.5)[None, None, :] - start[:, None, None]
    inside = (pixels > 0) & (pixels < extent[:, None, None])
    weights = _cubic((pixels - centres) / reach) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, as in Pillow and in torch's antialiased interpolation."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return near.where(x < 1.0, far).where(x < 2.0, torch.zeros_like(x))


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian blur of each image; pixels at the border go on beyond it, as in Pillow.

    Args:
        images: [N, C, S, S].
        sigma: Standard deviation in pixels, [N].

    Returns:
        [N, C, S, S].
    """
    size = images.shape[-1]
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(images.dtype)
    seen = (torch.arange(size, device=images.device)[:, None] + offsets).clamp(0, size - 1)
    mixing = torch.zeros(len(images), size, size, device=images.device, dtype=images.dtype)
    mixing.scatter_add_(2, seen.expand(len(images), -1, -1), weights[:, None].expand(-1, size, -1))
    return mixing[:, None] @ images @ mixing[:, None].mT


def grey_of(images: Tensor) -> Tensor:
    """[N, 1, H, W]: how bright colours [N, 3, H, W] are; grey images as they are."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(dim=1, keepdim=True)


def solarized(images: Tensor) -> Tensor:
    """Images in [0, 1] with all values from 128 / 255 on inverted."""
    return (1.0 - images).where(images >= 128 / 255, images)


def brightened(images: Tensor, factor: Tensor) -> Tensor:
    """Towards black, below 1, or away from it."""
    return _blended(images, torch.zeros_like(images[:, :1]), factor)


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the image's mean grey, below 1, or away from it."""
    return _blended(images, grey_of(images).mean(dim=(2, 3), keepdim=True), factor)


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Towards each pixel's grey, below 1, or away from it."""
    return images if images.shape[1] == 1 else _blended(images, grey_of(images), factor)


def hue_turned(images: Tensor, turn: Tensor) -> Tensor:
    """Hues turned by a share of the circle, in [-0.5, 0.5]; saturation and value as they were."""
    if images.shape[1] == 1 or len(images) == 0:
        return images
    value, smallest = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = value - smallest
    red, green, blue = images.split(1, dim=1)
    safe = chroma.where(chroma > 0, torch.ones_like(chroma))
    # The hue in sixths of the circle: which colour is the largest, and which way the others pull it.
    hue = ((blue - red) / safe + 2.0).where(value == green, (red - green) / safe + 4.0)
    hue = ((green - blue) / safe).where(value == red, hue) + 6.0 * turn[:, None, None, None]
    # Each channel of a hue is a trapezium along the circle, shifted by two sixths.
    shifts = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype)[:, None, None]
    place = (hue + shifts) % 6.0
    return value - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0)


ADJUSTMENTS = (brightened, contrasted, saturated, hue_turned)
"""The parts of the colour jitter: images [N, C, H, W] and a factor for each, [N]."""


def _blended(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    share = factor.to(images.dtype)[:, None, None, None]
    return (share * images + (1.0 - share) * others).clamp(0.0, 1.0)


def _where(happens: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    return then.where(happens[:, None, None, None], otherwise)
