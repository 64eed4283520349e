"""Decoding: what is no image, what is too large; what a dataset says of itself."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from hex_ssl.data import ArrayImages, FileImages
from hex_ssl.data.evaluation_images import EvaluationImages, square
from hex_ssl.data.images import FORMATS, MOST_CLASSES, decode_image


def png(width: int, height: int) -> bytes:
    """A PNG that says it has this size, whatever is in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000], ids=["where Pillow warns", "where Pillow stops"])
def test_too_many_pixels_are_an_error(side: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(ValueError, match=r"expected images of at most 89478485 pixels, but got .*bomb.png"):
        decode_image(tmp_path / "bomb.png")


def test_too_many_pixels_are_an_error_also_where_warnings_are_silenced() -> None:
    import warnings

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


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_formats_of_published_files(kind: str, tmp_path: Path) -> None:
    """Whatever their names say; cameras write MPO, which holds several images."""
    others = {"save_all": True, "append_images": [Image.new("RGB", (5, 3))]} if kind == "MPO" else {}
    Image.new("RGB", (5, 3)).save(tmp_path / "photograph.jpg", format=kind, **others)
    with Image.open(tmp_path / "photograph.jpg") as image:
        assert image.format == kind
    assert decode_image(tmp_path / "photograph.jpg").size == (5, 3)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
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
