"""Decoding of images, files that are not images, images that are too large, and the checks of `ImageDataset`."""

import os
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hex_ssl.train.data import ArrayImages, FileImages
from hex_ssl.train.data.evaluation_images import EvaluationImages, square
from hex_ssl.train.data.images import FORMATS, MOST_CLASSES, decode_image

RAMP = np.linspace(0, 65535, 256).round()
"""All 8-bit values from black to white."""


def png(
    width: int, height: int, pixels: bytes = b"", bits: int = 8, colour: int = 2, transparent: bytes | None = None
) -> bytes:
    """A PNG whose header states this size, whatever its content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    chunks += [] if transparent is None else [chunk(b"tRNS", transparent)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")])


def deep_png(channels: int, colour: int, transparent: bytes | None = None) -> bytes:
    """`RAMP` as a 16-bit PNG. With two or four channels, the last one is opaque alpha."""
    pixels = np.repeat(RAMP[:, None], channels, axis=1)
    if channels in (2, 4):
        pixels[:, -1] = 65535
    return png(256, 1, b"\0" + pixels.astype(">u2").tobytes(), 16, colour, transparent)


def pgm(highest: int) -> bytes:
    """`RAMP` as a PGM with this value of white."""
    values = (RAMP / 65535 * highest).round()
    return b"P5 256 1 %d\n" % highest + values.astype(">u2" if highest > 255 else "u1").tobytes()


def saved(image: Image.Image, kind: str, **more: Any) -> bytes:
    file = BytesIO()
    image.save(file, format=kind, **more)
    return file.getvalue()


def tiff(values: np.ndarray, **tags: int) -> bytes:
    """A grey TIFF with the given tags."""
    return saved(Image.fromarray(values[None]), "TIFF", tiffinfo={TIFF_TAGS[name]: tag for name, tag in tags.items()})


TIFF_TAGS = {"white_is_0": 262, "sample_format": 339}
SIGNED_AND_UNSIGNED = [struct.pack("<HHII", TIFF_TAGS["sample_format"], 3, 1, kind) for kind in (2, 1)]
"""A tag that Pillow always writes itself."""


@pytest.mark.parametrize("side", [10_000, 60_000], ids=["where Pillow warns", "where Pillow stops"])
def test_too_many_pixels_are_an_error(side: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(ValueError, match=r"expected images of at most 89478485 pixels, but got .*bomb.png"):
        decode_image(tmp_path / "bomb.png")


def test_too_many_pixels_are_an_error_even_if_warnings_are_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="expected images of at most 89478485 pixels, but got row 3"):
            decode_image(png(10_000, 10_000), name="row 3")


@pytest.mark.parametrize("content", [b"", b"not an image", png(64, 64)], ids=["empty", "text", "cut short"])
def test_what_cannot_be_decoded_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected .*broken.png to be an image, but it cannot be decoded"):
        decode_image(tmp_path / "broken.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_any_mode_becomes_colour(mode: str) -> None:
    file = BytesIO()
    Image.new(mode, (5, 3)).save(file, format="tiff")
    image = decode_image(file.getvalue())
    assert (image.mode, image.size) == ("RGB", (5, 3))


@pytest.mark.parametrize(
    "content",
    [
        deep_png(1, 0),
        deep_png(2, 4),
        deep_png(3, 2),
        deep_png(4, 6),
        pgm(1023),
        pgm(65535),
        saved(Image.fromarray((RAMP / 65535).astype(np.float32)[None]), "PPM"),
        tiff(RAMP.astype(np.uint16)),
        tiff((RAMP / 65535).astype(np.float32)),
    ],
    ids=["grey", "grey, alpha", "colour", "colour, alpha", "PGM of 10", "PGM of 16", "PFM", "TIFF", "floating TIFF"],
)
def test_more_than_8_bits_are_scaled(content: bytes) -> None:
    """Pillow itself makes all of them but the colours white, or black: each value above 255, or below 1, is cut off."""
    shades = np.asarray(decode_image(content))[0].astype(int)
    assert (abs(shades - np.arange(256)[:, None]) <= 1).all()
    assert shades[0].tolist() == [0, 0, 0]
    assert shades[-1].tolist() == [255, 255, 255]


def test_grey_tiff_may_have_white_at_0() -> None:
    shades = np.asarray(decode_image(tiff(RAMP.astype(np.uint16), white_is_0=0)))[0, :, 0]
    assert shades.tolist() == list(range(255, -1, -1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(RAMP.astype(np.int32)), "signed values"),
        (tiff(RAMP.astype(np.int32)).replace(*SIGNED_AND_UNSIGNED), "32-bit integers"),
        (tiff(RAMP.astype(np.float32)), r"values from 0 to 65535, not in \[0, 1\]"),
        (tiff(np.array([0.5, np.nan], np.float32)), r"values from nan to nan, not in \[0, 1\]"),
        (tiff(np.arange(256, dtype=np.uint8), sample_format=2), "signed values"),
    ],
    ids=["signed", "32 bits", "floats beyond 1", "NaN", "8 bits with a sign"],
)
def test_values_whose_white_is_unknown_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "deep.tif").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected .*deep.tif to be an image with a known white, but.* {message}"):
        decode_image(tmp_path / "deep.tif")


TURNS = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}
"""The rotation or flip of the pixels for each EXIF orientation."""


@pytest.mark.parametrize(
    ("orientation", "kind"), [*((each, "PNG") for each in TURNS), (6, "JPEG"), (6, "TIFF"), (6, "WEBP")]
)
def test_images_are_upright(orientation: int, kind: str) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 12:] = (200, 40, 40), (40, 40, 200)
    stored, exif = Image.fromarray(pixels), Image.Exif()
    for turn in TURNS[orientation]:
        stored = stored.transpose(turn)
    exif[0x0112] = orientation
    image = decode_image(saved(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    assert image.size == (24, 16)
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < (5 if kind == "JPEG" else 0.5)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\xff\xff\xff\xff\0\0"]
)
def test_damaged_exif_data_are_ignored(exif: bytes) -> None:
    assert decode_image(saved(Image.new("RGB", (6, 4), "red"), "JPEG", exif=exif)).size == (6, 4)


def see_through() -> dict[str, bytes]:
    """Images with one black and one transparent pixel, which hides another colour."""
    colour = Image.fromarray(np.array([[[0, 0, 0, 255], [0, 200, 0, 0]]], np.uint8), "RGBA")
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 200, 0])
    grey = Image.fromarray(np.array([[0, 77]], np.uint8))
    return {
        "alpha": saved(colour, "PNG"),
        "WebP": saved(colour, "WEBP", lossless=True),
        "grey and alpha": saved(colour.convert("LA"), "PNG"),
        "palette": saved(palette, "PNG", transparency=1),
        "palette with shares": saved(palette, "PNG", transparency=b"\xff\x00"),
        "GIF": saved(palette, "GIF", transparency=1),
        "a grey": saved(grey, "PNG", transparency=77),
        "a colour": saved(colour.convert("RGB"), "PNG", transparency=(0, 200, 0)),
        "a grey of 16 bits": png(2, 1, b"\0\0\0\x40\0", 16, 0, transparent=b"\x40\0"),
    }


@pytest.mark.parametrize("content", see_through().values(), ids=see_through().keys())
def test_transparent_pixels_are_white(content: bytes) -> None:
    assert np.asarray(decode_image(content)).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = decode_image(saved(Image.new("RGBA", (1, 1), (200, 0, 0, 51)), "PNG"))
    assert image.getpixel((0, 0)) == (244, 204, 204)


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_formats_of_published_files(kind: str, tmp_path: Path) -> None:
    """Whatever their file names. Cameras write MPO, which contains several images."""
    others = {"save_all": True, "append_images": [Image.new("RGB", (5, 3))]} if kind == "MPO" else {}
    Image.new("RGB", (5, 3)).save(tmp_path / "photograph.jpg", format=kind, **others)
    with Image.open(tmp_path / "photograph.jpg") as image:
        assert image.format == kind
    assert decode_image(tmp_path / "photograph.jpg").size == (5, 3)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    writer = os.open(tmp_path / "pipe.png", os.O_RDWR)  # who opens the pipe to read does not wait for another
    try:
        with pytest.raises(ValueError, match=r"expected .*pipe.png to be an image, but .* it is no regular file"):
            decode_image(tmp_path / "pipe.png")
    finally:
        os.close(writer)


@pytest.mark.parametrize("path", ["/etc/a.png", "../a.png", "inside/../../a.png", "inside/.."])
def test_a_path_may_not_leave_the_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"to lead to files below {tmp_path}, but got {path}"):
        FileImages(tmp_path, ["a.png", path], [0, 0], 1)


def test_a_link_may_lead_anywhere(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a..png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file.png").symlink_to(tmp_path / "a..png")
    (tmp_path / "data" / "folder").symlink_to(tmp_path)
    dataset = FileImages(tmp_path / "data", ["file.png", "folder/a..png"], [0, 0], 1)
    assert [image.size for image, _ in (dataset[row] for row in range(2))] == [(4, 4)] * 2  # type: ignore[union-attr]


def test_files_are_found_below_their_root(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "ärger.png")
    dataset = FileImages(tmp_path, ["ärger.png"], [0], 1)
    image, label = dataset[0]
    assert isinstance(image, Image.Image)
    assert (image.getpixel((0, 0)), label) == ((255, 0, 0), 0)


@pytest.mark.parametrize("labels", [[0, 2], [-2, 0]])
def test_labels_that_are_no_class_are_an_error(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected labels of 2 classes, 0 to 1 or -1 without, but got"):
        ArrayImages(torch.zeros(2, 1, 4, 4), labels, 2)


def test_each_class_needs_its_superclass() -> None:
    with pytest.raises(ValueError, match="expected a superclass for each of 3 classes, but got 2"):
        ArrayImages(torch.zeros(1, 1, 4, 4), [0], 3, superclasses=[0, 1])


@pytest.mark.parametrize("superclass", [-1, MOST_CLASSES])
def test_superclasses_out_of_their_range_are_an_error(superclass: int) -> None:
    with pytest.raises(ValueError, match=f"expected superclasses of 0 to 999,999, but got .*{superclass}"):
        ArrayImages(torch.zeros(1, 1, 4, 4), [0], 2, superclasses=[0, superclass])
    assert ArrayImages(torch.zeros(1, 1, 4, 4), [0], 2, superclasses=[0, MOST_CLASSES - 1]).superclasses is not None


def test_evaluated_square_is_resized_and_cropped_as_usual() -> None:
    from torchvision.transforms import v2

    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 14), size=(300, 450), mode="bicubic").clamp(0, 1)[0]
    image = v2.functional.to_pil_image(noise)
    found = square(image, 112, whole=False).float()
    usual = v2.Compose([v2.Resize(128, antialias=True), v2.CenterCrop(112), v2.PILToTensor()])(image).float()
    assert (found - usual).abs().max() <= 3.0
    assert (found - usual).abs().mean() < 0.4


def test_a_long_thin_image_is_evaluated_in_little_memory() -> None:
    image = Image.new("RGB", (60_000, 1), "red")
    assert square(image, 224, whole=False).unique().tolist() == [0, 255]


def test_square_of_a_tensor_of_its_size_is_the_tensor() -> None:
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(square(image, 8, whole=True), image)
    assert square(image, 4, whole=True).dtype == torch.uint8


def test_evaluation_images_are_normalised_rows() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    dataset = ArrayImages(images, [0, 1, -1, 0, 1], 2)
    evaluated = EvaluationImages(dataset, torch.tensor([3, 1]), 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    image, label = evaluated[1]
    assert (len(evaluated), label, evaluated.labels.tolist()) == (2, 1, [0, 1])
    expected = [(images[1, c] / 255 - mean) / std for c, (mean, std) in enumerate([(0.5, 0.2), (0.4, 0.3), (0.3, 0.4)])]
    torch.testing.assert_close(image, torch.stack(expected))
    loader = torch.utils.data.DataLoader(evaluated, batch_size=2)
    batch, labels = next(iter(loader))
    assert torch.equal(batch[1], image)
    assert labels.tolist() == [0, 1]


def test_statistics_need_as_many_numbers_as_channels() -> None:
    dataset = ArrayImages(torch.zeros(1, 1, 4, 4), [0], 1)
    with pytest.raises(ValueError, match="expected a mean and a std for each of 1 channels"):
        EvaluationImages(dataset, torch.tensor([0]), 4, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))[0]
