"""Crops by the DataLoader workers and decoded JPEG files, against torchvision and Pillow."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hex_ssl.train.config import DataConfig
from hex_ssl.train.data import PhotoView, PretrainData
from hex_ssl.train.data.images import decode_image
from hex_ssl.train.data.jpeg import decode_pixels
from hex_ssl.train.data.worker_crops import WorkerCrop

NOISE = torch.rand(3, 9, 12, generator=torch.Generator().manual_seed(0))
PICTURE = F.to_pil_image(F.resize(NOISE, [90, 120]))
BICUBIC = v2.InterpolationMode.BICUBIC


def encoded(picture: Image.Image = PICTURE, format: str = "jpeg", **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **settings)
    return file.getvalue()


@pytest.mark.parametrize("size", [(90, 120), (20, 400), (400, 20)], ids=["photograph", "wide", "tall"])
def test_boxes_are_torchvisions(size: tuple[int, int]) -> None:
    crop, theirs, image = WorkerCrop(PhotoView(), 16), v2.RandomResizedCrop(16), torch.empty(3, *size)
    for key in (*range(-60, 60), 2**63 - 1, -(2**63)):
        torch.manual_seed(key)
        drawn = theirs.make_params([image])
        assert crop.box(*size, key) == tuple(drawn[name] for name in ("top", "left", "height", "width"))


def test_crops_of_pil_images_are_torchvisions() -> None:
    torch.manual_seed(11)
    expected = F.pil_to_tensor(v2.RandomResizedCrop(16, interpolation=BICUBIC)(PICTURE))
    before = torch.get_rng_state()
    crop = WorkerCrop(PhotoView(), 16)
    assert torch.equal(crop(PICTURE, 11), expected)
    assert torch.equal(crop(F.pil_to_tensor(PICTURE).float() / 255, 11), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_of_tensors_equal_those_of_pil_images_up_to_rounding() -> None:
    crop, pixels = WorkerCrop(PhotoView(), 32), decode_pixels(encoded())
    differences = []
    for key in range(40):
        found, expected = crop(pixels, key), crop(decode_image(encoded()), key)
        assert found.shape == expected.shape == (3, 32, 32)
        differences.append((found.int() - expected.int()).abs())
    off = torch.stack(differences)
    assert off.max() <= 2
    assert (off > 0).float().mean() < 0.02
    assert (off > 1).float().mean() < 1e-4


def pixels_of(image: Image.Image | Tensor) -> Tensor:
    return image if isinstance(image, Tensor) else torch.as_tensor(F.pil_to_tensor(image))


@pytest.mark.parametrize(
    "file",
    [
        encoded(),
        encoded(PICTURE.convert("L")),
        encoded(progressive=True),
        encoded(subsampling=0, quality=97),
        encoded(PICTURE.crop((0, 0, 1, 1))),
    ],
    ids=["usual", "grey", "progressive", "4:4:4", "one pixel"],
)
def test_jpegs_are_decoded_to_pillows_pixels(file: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(file)
    for source in (file, tmp_path / "1.jpg"):
        found = decode_pixels(source)
        assert isinstance(found, Tensor)
        assert torch.equal(found, pixels_of(decode_image(file)))
        assert found[None].is_contiguous(memory_format=torch.channels_last)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


@pytest.mark.parametrize(
    "file",
    [turned(), encoded(PICTURE.convert("CMYK")), encoded(format="png"), encoded(format="gif")],
    ids=["turned", "CMYK", "PNG", "GIF"],
)
def test_pillow_decodes_everything_else(file: bytes) -> None:
    found = decode_pixels(file)
    assert isinstance(found, Image.Image)
    assert torch.equal(pixels_of(found), pixels_of(decode_image(file)))


@pytest.mark.parametrize(
    "file",
    [b"", b"\xff\xd8\xff", encoded()[:-200], encoded()[:30], encoded()[:3] + bytes(500)],
    ids=["empty", "the beginning", "cut short", "cut in its head", "zeros"],
)
def test_damaged_files_end_with_pillows_message(file: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(file)
    for source in (file, tmp_path / "1.jpg"):
        with pytest.raises(ValueError, match="to be an image, but it cannot be decoded as JPEG") as expected:
            decode_image(source)
        with pytest.raises(ValueError, match="to be an image") as found:
            decode_pixels(source)
        # A message may name an object that Pillow has read.
        assert str(found.value).split("<_io")[0] == str(expected.value).split("<_io")[0]


@pytest.mark.parametrize("limit", [90 * 120 - 1, 90 * 120 // 3], ids=["warned of", "refused"])
def test_too_many_pixels_are_refused(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"expected images of at most {limit} pixels, but got row 3: "):
        decode_pixels(encoded(), name="row 3")


def test_pipes_and_missing_files_are_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match="it is no regular file"):
        decode_pixels(tmp_path / "pipe.jpg")
    with pytest.raises(FileNotFoundError):
        decode_pixels(tmp_path / "none.jpg")


def test_crops_reach_the_device_as_bytes_with_the_channels_last(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "train" / "cat" / f"{number}.jpg").write_bytes(encoded())
    config = DataConfig(
        name="folder", root=str(tmp_path), batch_size=4, image_size=24, num_workers=1, augment_on="device"
    )
    data = PretrainData(config, seed=0)
    loaded = next(iter(data.train_dataloader()))
    for images in loaded.images:
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
    data.views.memory_format = torch.channels_last
    views = data.on_after_batch_transfer(loaded, 0).views
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in views)
