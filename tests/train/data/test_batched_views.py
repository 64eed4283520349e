"""Batched views on the device against torchvision's views, image by image."""

from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hex_ssl.train.data import BatchedView, PhotoView
from hex_ssl.train.data.batched_views import (
    blurred,
    brightened,
    contrasted,
    draw_crops,
    grey_of,
    hue_turned,
    resized_crops,
    saturated,
    solarized,
)
from hex_ssl.train.data.draws import Draws, draw_keys

STILL = PhotoView(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), jitter=0.0, grey=0.0, flip=0.0)
IMAGES = torch.rand(24, 3, 40, 50, generator=torch.Generator().manual_seed(0))


def keys(count: int = 24, epoch: int = 0) -> Tensor:
    return draw_keys(0, epoch, torch.arange(count))


@pytest.mark.parametrize("size", [8, 32, 64])
def test_resized_crops_are_torchvisions(size: int) -> None:
    boxes = draw_crops(Draws(keys()), 40, 50, (0.08, 1.0), (3 / 4, 4 / 3))
    found = resized_crops(IMAGES, boxes, size)
    for row, image in enumerate(IMAGES):
        box = [int(part[row]) for part in boxes]
        expected = F.resized_crop(image, *box, [size, size], v2.InterpolationMode.BICUBIC, antialias=True)
        torch.testing.assert_close(found[row], expected.clamp(0, 1), rtol=0, atol=2e-6)


def test_crops_lie_inside_and_have_the_share_and_ratio_asked_for() -> None:
    top, left, height, width = draw_crops(Draws(keys(20_000)), 40, 50, (0.2, 0.5), (0.8, 1.25))
    assert all(torch.equal(part, part.round()) for part in (top, left, height, width))
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 40
    assert (left + width).max() == 50
    area, ratio = height * width / 2000, (width / height).log()
    assert 0.18 < area.min() < 0.21 < 0.49 < area.max() < 0.53
    assert abs(area.mean() - 0.35) < 0.003
    assert -0.28 < ratio.min() < -0.21 < 0.21 < ratio.max() < 0.28
    assert abs(ratio.mean()) < 0.005


def test_crops_are_distributed_as_torchvisions() -> None:
    found = torch.stack(draw_crops(Draws(keys(4000)), 40, 50, (0.08, 1.0), (3 / 4, 4 / 3)))
    crop = v2.RandomResizedCrop(8)
    torch.manual_seed(0)
    drawn = [crop.make_params([IMAGES[0]]) for _ in range(4000)]
    expected = torch.tensor([[each[name] for name in ("top", "left", "height", "width")] for each in drawn]).T.float()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    assert (found.quantile(quantiles, dim=1) - expected.quantile(quantiles, dim=1)).abs().max() <= 1.5


def test_crop_that_never_fits_is_the_middle() -> None:
    boxes = draw_crops(Draws(keys(3)), 40, 400, (1.0, 1.0), (3 / 4, 4 / 3))
    assert [part.tolist() for part in boxes] == [[0.0] * 3, [173.0] * 3, [40.0] * 3, [53.0] * 3]
    drawn = v2.RandomResizedCrop(8, (1.0, 1.0)).make_params([torch.zeros(3, 40, 400)])
    assert [drawn[name] for name in ("top", "left", "height", "width")] == [0, 173, 40, 53]


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (brightened, F.adjust_brightness, 0.0, 2.0),
        (contrasted, F.adjust_contrast, 0.0, 2.0),
        (saturated, F.adjust_saturation, 0.0, 2.0),
        (hue_turned, F.adjust_hue, -0.5, 0.5),
    ],
)
def test_adjustments_are_torchvisions(ours, theirs, low: float, high: float) -> None:  # type: ignore[no-untyped-def]
    images = IMAGES.clone()
    images[0] = 0.0
    images[1] = 1.0
    images[2, 1] = images[2, 0]  # two channels share the largest value
    images[3] = images[3, :1]  # no colour
    factors = torch.linspace(low, high, len(images))
    found = ours(images, factors)
    for row, image in enumerate(images):
        torch.testing.assert_close(found[row], theirs(image, float(factors[row])), rtol=0, atol=2e-6)


def test_grey_and_solarized_are_torchvisions() -> None:
    torch.testing.assert_close(grey_of(IMAGES), F.rgb_to_grayscale(IMAGES), rtol=0, atol=1e-6)
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = F.solarize(bytes_, 128).float() / 255
    torch.testing.assert_close(solarized(bytes_.float() / 255), expected, rtol=0, atol=1e-6)


def test_blur_is_a_gaussian_on_pixels_that_go_on_beyond_the_border() -> None:
    images = IMAGES[..., :40]
    sigma = torch.linspace(0.1, 2.0, len(images))
    found = blurred(images, sigma)
    wider = torch.nn.functional.pad(images, (22, 22, 22, 22), mode="replicate")
    for row, image in enumerate(wider):
        expected = F.gaussian_blur(image, [23, 23], [float(sigma[row])] * 2)[:, 22:-22, 22:-22]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(blurred(torch.ones(1, 3, 8, 8), torch.tensor([2.0])), torch.ones(1, 3, 8, 8))


def test_blur_is_near_pillows() -> None:
    """Pillow's is three box filters, which the workers' views have; also near the border."""
    image = F.to_pil_image(IMAGES[0, :, :40, :40])
    for sigma in (0.5, 1.0, 2.0):
        expected = F.to_dtype(F.pil_to_tensor(image.filter(ImageFilter.GaussianBlur(sigma))), scale=True)
        found = blurred(F.to_dtype(F.pil_to_tensor(image), scale=True)[None], torch.tensor([sigma]))[0]
        assert (found - expected).abs().mean() < 0.01


def test_view_of_nothing_is_the_image() -> None:
    images = IMAGES[..., :40]
    torch.testing.assert_close(BatchedView(STILL, 40)(images, keys()), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip": 0.3}, lambda image: image.flip(-1)),
        ({"grey": 0.3}, lambda image: F.rgb_to_grayscale(image, 3)),
        ({"solarize": 0.3}, solarized),
    ],
)
def test_steps_happen_to_their_share_of_the_images(change, expected) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2000, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    views = BatchedView(replace(STILL, **change), 6)(images, keys(2000))
    changed = (views - images).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert abs(changed.double().mean() - 0.3) < 0.04
    torch.testing.assert_close(views[changed], expected(images[changed]), rtol=0, atol=2e-6)
    torch.testing.assert_close(views[~changed], images[~changed], rtol=0, atol=2e-6)


def test_jitter_is_the_four_adjustments_in_an_order_of_each_image() -> None:
    """With one adjustment alone its order cannot matter; with all, every image is one of 24 results."""
    images = torch.rand(50, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    view = replace(STILL, jitter=1.0, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    found = BatchedView(view, 6)(images, keys(50))
    draws = Draws(keys(50))
    draw_crops(draws, 6, 6, (1.0, 1.0), (1.0, 1.0))
    factors = [draws.between(1 - x, 1 + x) for x in (0.4, 0.3, 0.2)] + [draws.between(-0.1, 0.1)]
    orders = draws.permutation(4)
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for row, image in enumerate(images):
        for kind in orders[row].tolist():
            image = steps[kind](image, float(factors[kind][row]))
        torch.testing.assert_close(found[row], image, rtol=0, atol=5e-6)
    assert len({tuple(order) for order in orders.tolist()}) > 15


@pytest.mark.parametrize("channels", [1, 3])
def test_views_of_an_image_do_not_depend_on_its_batch(channels: int) -> None:
    view = BatchedView(PhotoView(blur=0.5, solarize=0.2), 16)
    images = IMAGES[:, :channels]
    together = view(images, keys())
    for row in (0, 7, 23):
        torch.testing.assert_close(view(images[row : row + 1], keys()[row : row + 1])[0], together[row])
    assert together.shape == (24, channels, 16, 16)
    assert 0.0 <= together.min() <= together.max() <= 1.0
    assert torch.equal(together, view(images, keys()))
    assert not torch.equal(together, view(images, keys(epoch=1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_views_on_a_gpu_are_those_on_the_cpu() -> None:
    view = BatchedView(PhotoView(blur=0.5, solarize=0.2), 16)
    found = view(IMAGES.cuda(), keys().cuda())
    # A pixel next to the threshold may be solarised on one of them only.
    differing = (found.cpu() - view(IMAGES, keys())).abs() > 1e-4
    assert differing.double().mean() < 1e-3


def test_images_given_are_left_as_they_are() -> None:
    images = IMAGES[..., :40].clone()
    BatchedView(PhotoView(blur=1.0, solarize=1.0), 40, crop=False)(images, keys())
    assert torch.equal(images, IMAGES[..., :40])


def test_views_are_distributed_as_the_workers() -> None:
    """The two ways to draw a view have the same mean and deviation over many draws of one image."""
    from hex_ssl.train.data import WorkerView

    view = PhotoView(blur=0.5, solarize=0.2)
    image = Image.fromarray((IMAGES[5].permute(1, 2, 0) * 255).byte().numpy()).resize(
        (24, 24), Image.Resampling.BICUBIC
    )
    tensor = F.to_dtype(F.pil_to_tensor(image), scale=True)
    count = 1500
    batched = BatchedView(view, 16)(tensor.expand(count, -1, -1, -1), keys(count))
    worker = WorkerView(view, 16)
    drawn = torch.stack([worker(image, key) for key in range(count)]).float() / 255
    for statistic in (
        lambda views: views.mean(dim=(2, 3)).mean(dim=0),
        lambda views: views.mean(dim=(2, 3)).std(dim=0),
        lambda views: views.std(dim=(2, 3)).mean(dim=0),
    ):
        torch.testing.assert_close(statistic(batched), statistic(drawn), rtol=0, atol=0.02)
