"""Batched views on the device against torchvision's views, image by image."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hex_ssl.train.data import POLICIES, BatchedView, PhotoView
from hex_ssl.train.data import device_views as device_views_module
from hex_ssl.train.data.batched_views import draw_crops
from hex_ssl.train.data.colours import Jitter, grey_of, jittered, solarized
from hex_ssl.train.data.device_views import DeviceViews
from hex_ssl.train.data.draws import Draws, draw_keys
from hex_ssl.train.data.resampling import blur_matrices, crop_matrices, resampled

STILL = PhotoView(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), jitter=0.0, grey=0.0, flip=0.0)
IMAGES = torch.rand(24, 3, 40, 50, generator=torch.Generator().manual_seed(0))


def keys(count: int = 24, epoch: int = 0) -> Tensor:
    return draw_keys(0, epoch, torch.arange(count))


def boxes_of(draws: Draws, height: int, width: int, *ranges: tuple[float, float]) -> Tensor:
    """Top, left, height and width, [4, N]."""
    return torch.cat(draw_crops(draws, height, width, *ranges))


def rows_first(function: Any, images: Tensor, *others: Any) -> Tensor:
    """Applies a function of images [N, H, C, W] to images [N, C, H, W]."""
    found: Tensor = function(images.transpose(1, 2), *others)
    return found.transpose(1, 2)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_resized_crops_are_torchvisions(size: int) -> None:
    boxes = draw_crops(Draws(keys()), 40, 50, (0.08, 1.0), (3 / 4, 4 / 3))
    found = rows_first(resampled, IMAGES, *crop_matrices(boxes, 40, 50, size)).clamp(0, 1)
    for row, image in enumerate(IMAGES):
        box = torch.cat(boxes)[:, row].int().tolist()
        expected = F.resized_crop(image, *box, [size, size], v2.InterpolationMode.BICUBIC, antialias=True)
        torch.testing.assert_close(found[row], expected.clamp(0, 1), rtol=0, atol=2e-6)


def test_crops_are_inside_and_have_the_requested_area_and_ratio() -> None:
    top, left, height, width = boxes_of(Draws(keys(20_000)), 40, 50, (0.2, 0.5), (0.8, 1.25))
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
    found = boxes_of(Draws(keys(4000)), 40, 50, (0.08, 1.0), (3 / 4, 4 / 3))
    crop = v2.RandomResizedCrop(8)
    torch.manual_seed(0)
    drawn = [crop.make_params([IMAGES[0]]) for _ in range(4000)]
    expected = torch.tensor([[each[name] for name in ("top", "left", "height", "width")] for each in drawn]).T.float()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    assert (found.quantile(quantiles, dim=1) - expected.quantile(quantiles, dim=1)).abs().max() <= 1.5


def test_crop_that_never_fits_is_the_centre() -> None:
    boxes = boxes_of(Draws(keys(3)), 40, 400, (1.0, 1.0), (3 / 4, 4 / 3))
    assert [part.tolist() for part in boxes] == [[0.0] * 3, [173.0] * 3, [40.0] * 3, [53.0] * 3]
    drawn = v2.RandomResizedCrop(8, (1.0, 1.0)).make_params([torch.zeros(3, 40, 400)])
    assert [drawn[name] for name in ("top", "left", "height", "width")] == [0, 173, 40, 53]


def jitter_alone(kind: int, factors: Tensor) -> Jitter:
    """A jitter with only one of the four adjustments, by its number."""
    count = len(factors)
    each = [torch.ones(count), torch.ones(count), torch.ones(count), torch.zeros(count)]
    each[kind] = factors
    return Jitter(*each, torch.rand(count, 4), torch.ones(count, dtype=torch.bool))


@pytest.mark.parametrize(
    ("kind", "theirs", "low", "high"),
    [
        (0, F.adjust_brightness, 0.0, 2.0),
        (1, F.adjust_contrast, 0.0, 2.0),
        (2, F.adjust_saturation, 0.0, 2.0),
        (3, F.adjust_hue, -0.5, 0.5),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_adjustments_are_torchvisions(kind: int, theirs: Any, low: float, high: float) -> None:
    images = IMAGES.clone()
    images[0] = 0.0
    images[1] = 1.0
    images[2, 1] = images[2, 0]  # two channels share the largest value
    images[3] = images[3, :1]  # no colour
    factors = torch.linspace(low, high, len(images))
    found = rows_first(jittered, images, jitter_alone(kind, factors))
    for row, image in enumerate(images):
        torch.testing.assert_close(found[row], theirs(image, float(factors[row])), rtol=0, atol=3e-6)


def test_grey_and_solarized_are_torchvisions() -> None:
    torch.testing.assert_close(rows_first(grey_of, IMAGES), F.rgb_to_grayscale(IMAGES), rtol=0, atol=1e-6)
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = F.solarize(bytes_, 128).float() / 255
    found = solarized(bytes_.float() / 255, torch.tensor([True]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def blurred(images: Tensor, sigma: Tensor, happens: bool = True) -> Tensor:
    matrices = blur_matrices(sigma, torch.full((len(images),), happens), images.shape[-1])
    return rows_first(resampled, images, matrices, matrices)


def test_blur_is_a_gaussian_that_repeats_the_border() -> None:
    images = IMAGES[..., :40]
    sigma = torch.linspace(0.1, 2.0, len(images))
    found = blurred(images, sigma)
    wider = torch.nn.functional.pad(images, (22, 22, 22, 22), mode="replicate")
    for row, image in enumerate(wider):
        expected = F.gaussian_blur(image, [23, 23], [float(sigma[row])] * 2)[:, 22:-22, 22:-22]
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(blurred(torch.ones(1, 3, 8, 8), torch.tensor([2.0])), torch.ones(1, 3, 8, 8))
    assert torch.equal(blurred(images, sigma, happens=False), images)


def test_blur_is_near_pillows() -> None:
    """The workers' views use Pillow's blur, which is three box filters. Compares also near the border."""
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
        ({"solarize": 0.3}, lambda image: torch.where(image >= 128 / 255, 1 - image, image)),
    ],
)
def test_steps_happen_with_their_probability(change, expected) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(2000, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    views = BatchedView(replace(STILL, **change), 6)(images, keys(2000))
    changed = (views - images).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert abs(changed.double().mean() - 0.3) < 0.04
    torch.testing.assert_close(views[changed], expected(images[changed]), rtol=0, atol=2e-6)
    torch.testing.assert_close(views[~changed], images[~changed], rtol=0, atol=2e-6)


def reference_view(view: PhotoView, image: Tensor, key: Tensor, size: int) -> tuple[Tensor, tuple[int, ...]]:
    """A view of one image by torchvision's functions, and the order of its jitter, empty without jitter."""
    draws = Draws(key.view(1))
    height, width = image.shape[1:]
    box = boxes_of(draws, height, width, view.crop_scale, view.crop_ratio)[:, 0].int().tolist()
    image = F.resized_crop(image, *box, [size, size], v2.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    factors = [draws.between(max(0, 1 - x), 1 + x) for x in (view.brightness, view.contrast, view.saturation)]
    factors.append(draws.between(-view.hue, view.hue))
    order = tuple(draws.permutation(4)[0].tolist())
    if draws.happens(view.jitter):
        steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for kind in order:
            image = steps[kind](image, float(factors[kind]))
    else:
        order = ()
    if draws.happens(view.grey):
        image = F.rgb_to_grayscale(image, image.shape[0])
    blurs, sigma = draws.happens(view.blur), float(draws.between(*view.blur_sigma))
    if blurs:
        wider = torch.nn.functional.pad(image[None], (11, 11, 11, 11), mode="replicate")[0]
        image = F.gaussian_blur(wider, [23, 23], [sigma, sigma])[:, 11:-11, 11:-11]
    if draws.happens(view.solarize):
        image = torch.where(image >= 128 / 255, 1 - image, image)
    return (image.flip(-1) if draws.happens(view.flip) else image), order


@pytest.mark.parametrize("policy", ["symmetric", "asymmetric_imagenet", "vicreg_cifar", "hierarchy"])
def test_views_are_torchvisions_image_by_image(policy: str) -> None:
    images = torch.rand(120, 3, 20, 26, generator=torch.Generator().manual_seed(1))
    orders = set()
    for view in dict.fromkeys(POLICIES[policy]):
        found = BatchedView(view, 16)(images, keys(120))
        differing = torch.zeros(())
        for row, image in enumerate(images):
            expected, order = reference_view(view, image, keys(120)[row], 16)
            differing += ((found[row] - expected).abs() > 1e-5).sum()
            orders.add(order)
        # A value next to the threshold of the solarisation may be inverted in one of them only.
        assert differing <= (3 if view.solarize else 0)
    assert len(orders) == 25  # all of them, and none


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


WAITING = (
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
    "lift_fresh",  # a tensor of Python's numbers, which is copied to the device
)
"""Operators that wait for the GPU, because they read a value from it or copy one to it."""


class NoWaiting(TorchDispatchMode):
    """Raises an error for operators that wait for a GPU, and counts all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name = func.overloadpacket.__name__
        chosen = [each for each in args[1] if each is not None] if name in ("index", "index_put", "index_put_") else []
        if name in WAITING or any(each.dtype in (torch.bool, torch.uint8) for each in chosen):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[x > 0.5],
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: bool(x.any()),
        lambda x: x + torch.tensor([1.0]),
    ],
)
def test_waiting_is_noticed(wait: Any) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        wait(torch.rand(5))


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("policy", sorted({*POLICIES} - {"digits"}))
def test_views_wait_for_nothing_and_take_at_most_270_operators(policy: str, crop: bool) -> None:
    for view in POLICIES[policy]:
        assert isinstance(view, PhotoView)
        draw, images, some = BatchedView(view, 40, crop), IMAGES[..., :40], keys()
        with NoWaiting() as mode:
            draw(images, some)
        assert mode.count <= 270


def device_views() -> DeviceViews:
    view = PhotoView(blur=0.5, solarize=0.2)
    return DeviceViews([BatchedView(view, 16), BatchedView(view, 16)], (0.5, 0.4, 0.3), (0.2, 0.2, 0.25), seed=0)


BYTES = (IMAGES * 255).byte()


def test_batches_of_views_wait_for_nothing() -> None:
    make, epoch, indices = device_views(), torch.tensor(3), torch.arange(24)
    first = make((BYTES, BYTES), indices, epoch)
    with NoWaiting():
        found = make((BYTES, BYTES), indices, epoch)
    assert all(torch.equal(one, other) for one, other in zip(first, found, strict=True))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_batches_of_views_on_a_gpu_wait_for_nothing_and_are_those_on_the_cpu() -> None:
    make, epoch, indices = device_views(), torch.tensor(3).cuda(), torch.arange(24).cuda()
    images = BYTES.cuda()
    make((images, images), indices, epoch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = make((images, images), indices, epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, make((BYTES, BYTES), torch.arange(24), torch.tensor(3)), strict=True):
        # A pixel next to the threshold may be solarised on one of them only.
        assert ((one.cpu() - other).abs() > 1e-4).double().mean() < 1e-3


@pytest.mark.parametrize("sigma", [0.15, 0.8, 1.0])
def test_no_weight_of_a_blur_is_below_the_normal_numbers(sigma: float) -> None:
    """Products with such numbers take many times as long."""
    matrices = blur_matrices(torch.tensor([sigma]), torch.tensor([True]), 32)
    assert ((matrices == 0) | (matrices >= torch.finfo(torch.float32).tiny)).all()
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(1, 32))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_batch_is_made_in_parts_for_all_threads(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    make = device_views()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(device_views_module, "PART", 24 * BYTES[0, 0].numel() // threads)
    sizes: list[int] = []
    whole = make._make
    make._make = lambda maker, some, *rest: (sizes.append(len(some)), whole(maker, some, *rest))[1]
    images = BYTES.repeat(6, 1, 1, 1)
    found = make((images, images), torch.arange(144), torch.tensor(3))
    assert found[0].shape == (144, 3, 16, 16)
    assert sizes == [24] * 12
    for view, expected in zip(found, make((BYTES, BYTES), torch.arange(24), torch.tensor(3)), strict=True):
        torch.testing.assert_close(view[:24], expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_compiled_views_are_the_same() -> None:
    """Both views share one compiled program with at most 15 kernels and products."""
    from torch._inductor.utils import run_and_get_code

    torch._dynamo.reset()
    plain, compiled = device_views(), device_views()
    compiled.compile(fullgraph=True)
    arguments = ((BYTES, BYTES), torch.arange(24), torch.tensor(3))
    found, code = run_and_get_code(compiled, *arguments)
    for one, other in zip(found, plain(*arguments), strict=True):
        assert ((one - other).abs() > 1e-4).double().mean() < 1e-3
    (program,) = code
    calls = [line.strip() for line in program[program.index("def call") :].splitlines()]
    kernels = [line for line in calls if line.startswith(("cpp_fused", "extern_kernels.")) or "torch.ops." in line]
    assert 5 < len(kernels) <= 15


def test_runs_with_other_seeds_share_the_compiled_views() -> None:
    """torch stops to compile after eight programs for one function, and experiments have many runs in a process."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    found = []
    for seed in range(3):
        make = DeviceViews([BatchedView(PhotoView(blur=0.5), 16)], (0.5, 0.4, 0.3), (0.2, 0.2, 0.25), seed)
        make.compile(backend="aot_eager")
        found.append(make((BYTES,), torch.arange(24), torch.tensor(3))[0])
    assert counters["stats"]["unique_graphs"] == 1
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.15)])
def test_views_have_the_images_dtype(dtype: torch.dtype, tolerance: float) -> None:
    view = BatchedView(PhotoView(blur=0.5), 16)
    found = view(IMAGES.to(dtype), keys())
    assert found.dtype == dtype
    assert (found.float() - view(IMAGES, keys())).abs().quantile(0.99) < tolerance


def test_input_images_are_not_modified() -> None:
    images = IMAGES[..., :40].clone()
    BatchedView(PhotoView(blur=1.0, solarize=1.0), 40, crop=False)(images, keys())
    assert torch.equal(images, IMAGES[..., :40])


def test_views_are_distributed_as_the_workers() -> None:
    """Both ways to draw a view have the same mean and standard deviation over many draws of one image."""
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
