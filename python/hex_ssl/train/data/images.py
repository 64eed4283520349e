"""The base class of the image datasets, datasets in memory and in files, and the decoding of images."""

import hashlib
import io
import os
import stat
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""File name extensions of images: those of torchvision's ImageFolder, and the others of `FORMATS`."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""The formats that Pillow may decode, whatever the file is called. Some other formats start a program (EPS).

JPEG includes the MPO format of cameras. In published datasets some files named .jpg are GIF images.
"""

UNLABELLED = -1

MOST_CLASSES = 1_000_000
"""Labels and superclasses must be below this number. Larger ones come from damaged files, and would take memory."""

WHITE_IS_0, SAMPLE_BITS, SAMPLE_FORMAT = 262, 258, 339
"""TIFF tags: PhotometricInterpretation (0 if 0 is white), BitsPerSample and SampleFormat."""

SIGNED = 2
"""The value of `SAMPLE_FORMAT` for signed integers."""

SMALL_SIDE = 64
"""Largest side in pixels of images that may be kept decoded, which takes a few times the memory of the files."""

SMALL_BYTES = 1 << 30
"""Largest memory in bytes that decoded images may take."""


class ImageDataset(ABC, Dataset[tuple[Image.Image | Tensor, int]]):
    """Base class of image datasets, with items (image, label).

    An image is a PIL image, or a tensor [C, H, W], uint8 in [0, 255] or float32 in [0, 1]. The label of an image
    without a label is -1.

    Args:
        labels: One per image, -1 for images without a label.
        classes: Number of classes, 0 if no image has a label.
        class_names: Names of the classes, if known.
        superclasses: The superclass of each class, or None.
        superclass_names: Names of the superclasses, if known.
        size: Height and width in pixels if all images have the same size, otherwise None.
        channels: 1 for grey, 3 for colour.

    Attributes:
        files_digest: SHA-256 of the file names in order. None if the images are not in separate files.

    Raises:
        ValueError: A label is not a class, or a superclass is not in [0, `MOST_CLASSES`).
    """

    class_folders: tuple[str, ...] = ()
    """Names of the classes in the file system, if they differ from `class_names`."""

    left_out: tuple[str, ...] = ()
    """Folders beside the splits that are not read."""

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray | Tensor,
        classes: int,
        *,
        class_names: Sequence[str] = (),
        superclasses: Sequence[int] | Tensor | None = None,
        superclass_names: Sequence[str] = (),
        size: tuple[int, int] | None = None,
        channels: int = 3,
    ) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes = classes
        self.class_names = tuple(class_names)
        self.size = size
        self.channels = channels
        self.files_digest: str | None = None
        if len(self.labels) and not UNLABELLED <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            found = f"{int(self.labels.min())} to {int(self.labels.max())}"
            raise ValueError(f"expected labels of {classes} classes, 0 to {classes - 1} or -1 without, but got {found}")
        self.set_superclasses(superclasses, superclass_names)

    def set_superclasses(self, superclasses: Sequence[int] | Tensor | None, names: Sequence[str]) -> None:
        """Replaces the superclasses.

        Args:
            superclasses: The superclass of each class, or None.
            names: Names of the superclasses, if known.

        Raises:
            ValueError: There is not one for each class, or one is not in [0, `MOST_CLASSES`).
        """
        found = None if superclasses is None else torch.as_tensor(superclasses, dtype=torch.int64)
        if found is not None and len(found) != self.classes:
            raise ValueError(f"expected a superclass for each of {self.classes} classes, but got {len(found)}")
        if found is not None and self.classes:
            least, most = int(found.min()), int(found.max())
            if least < 0 or most >= MOST_CLASSES:
                raise ValueError(f"expected superclasses of 0 to {MOST_CLASSES - 1:,}, but got {least} to {most}")
        self.superclasses = found
        self.superclass_names = tuple(names)

    @property
    def in_memory(self) -> bool:
        """Whether the images are tensors in memory and need no decoding."""
        return False

    @abstractmethod
    def image(self, index: int) -> Image.Image | Tensor:
        """The image of a row."""

    def pixels(self, index: int) -> Image.Image | Tensor:
        """The same image, decoded in the fastest way: an ordinary JPEG gives a tensor, see `jpeg.decode_pixels`."""
        return self.image(index)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image | Tensor, int]:
        return self.image(index), int(self.labels[index])


class ArrayImages(ImageDataset):
    """Images of one size in memory.

    Args:
        images: [N, C, H, W], uint8 in [0, 255] or float32 in [0, 1].
        labels, classes: See `ImageDataset`.
        class_names, superclasses, superclass_names: See `ImageDataset`.

    Example:
        >>> dataset = ArrayImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), labels=[1, -1], classes=2)
        >>> image, label = dataset[0]
        >>> image.shape, label, dataset.size
        (torch.Size([3, 4, 4]), 1, (4, 4))
    """

    def __init__(
        self,
        images: Tensor,
        labels: Sequence[int] | np.ndarray | Tensor,
        classes: int,
        *,
        class_names: Sequence[str] = (),
        superclasses: Sequence[int] | Tensor | None = None,
        superclass_names: Sequence[str] = (),
    ) -> None:
        super().__init__(
            labels,
            classes,
            class_names=class_names,
            superclasses=superclasses,
            superclass_names=superclass_names,
            size=(images.shape[2], images.shape[3]),
            channels=images.shape[1],
        )
        self.images = images

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    def image(self, index: int) -> Tensor:
        """[C, H, W]."""
        return self.images[index]


def small_in_memory(dataset: ImageDataset) -> ImageDataset:
    """Decodes all images into memory if they are small and of one size.

    Args:
        dataset: A dataset that decodes an image each time it is requested.

    Returns:
        `ArrayImages` if all images have the same size, with sides of at most `SMALL_SIDE` pixels, and take at most
        `SMALL_BYTES` together. Otherwise `dataset`, also if an image cannot be decoded: requesting that image raises
        the error.
    """
    try:
        first = _bytes_of(dataset.image(0)) if len(dataset) else None
        if first is None or max(first.shape[1:]) > SMALL_SIDE or first.size * len(dataset) > SMALL_BYTES:
            return dataset
        images = np.empty((len(dataset), *first.shape), dtype=np.uint8)
        for index, place in enumerate(images):
            image = _bytes_of(dataset.image(index))
            if image is None or image.shape != first.shape:
                return dataset
            place[:] = image
    except (OSError, ValueError):
        return dataset
    kept = ArrayImages(
        torch.from_numpy(images),
        dataset.labels,
        dataset.classes,
        class_names=dataset.class_names,
        superclasses=dataset.superclasses,
        superclass_names=dataset.superclass_names,
    )
    kept.files_digest = dataset.files_digest
    return kept


def _bytes_of(image: Image.Image | Tensor) -> np.ndarray | None:
    """uint8 [C, H, W], or None if the image has floating-point values."""
    if isinstance(image, Image.Image):
        return np.asarray(image).transpose(2, 0, 1)
    return image.numpy() if image.dtype == torch.uint8 else None


class FileImages(ImageDataset):
    """Images in files, decoded in colour when they are requested.

    Args:
        root: The folder that contains all images.
        paths: The path of each image relative to `root`.
        labels, classes: See `ImageDataset`.
        class_names, superclasses, superclass_names, size: See `ImageDataset`.
        class_folders: Names of the classes in the file system, if they differ from `class_names`.

    Raises:
        ValueError: A path leads out of `root`. See also `ImageDataset`.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int] | np.ndarray | Tensor,
        classes: int,
        *,
        class_names: Sequence[str] = (),
        class_folders: Sequence[str] = (),
        superclasses: Sequence[int] | Tensor | None = None,
        superclass_names: Sequence[str] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(
            labels,
            classes,
            class_names=class_names,
            superclasses=superclasses,
            superclass_names=superclass_names,
            size=size,
        )
        self.class_folders = tuple(class_folders)
        self.root = root
        # One array, not a list of strings: their reference counts would copy the list into each worker
        # (pytorch/pytorch#13246), which takes gigabytes for millions of images.
        self.paths = np.array([os.fsencode(path) for path in (within(root, each) for each in paths)], dtype=np.bytes_)
        self.files_digest = hashlib.sha256(self.paths.tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        """The path of the file of a row."""
        return self.root / os.fsdecode(self.paths[index].item())

    def image(self, index: int) -> Image.Image:
        """The image, in colour."""
        return decode_image(self.path(index))

    def pixels(self, index: int) -> Image.Image | Tensor:
        """See `ImageDataset`."""
        from hex_ssl.train.data.jpeg import decode_pixels

        return decode_pixels(self.path(index))


def within(root: Path, path: str) -> str:
    """Checks that a relative path stays inside its folder. Symbolic links are not resolved.

    Args:
        root: The folder.
        path: A path relative to `root`, from a list or a table.

    Returns:
        `path`, unchanged.

    Raises:
        ValueError: `path` is absolute or contains `..`.

    Example:
        >>> within(Path("birds"), "001.Albatross/1.jpg")
        '001.Albatross/1.jpg'
    """
    if os.path.isabs(path) or ".." in path.split(os.sep):
        raise ValueError(f"expected the paths of images to lead to files below {root}, but got {path}")
    return path


def decode_image(source: Path | bytes, name: str = "an image") -> Image.Image:
    """Decodes an image from a file or from bytes, in colour with 8 bits per channel, as a viewer shows it.

    - The image is turned upright according to its EXIF orientation.
    - Transparent pixels are shown on white, also those of a palette.
    - Images with more than 8 bits are scaled. White is 65,535 in 16-bit images, the file's own maximum in PGM, and 1.0
      in floating-point images. Images without a known white are refused: signed or 32-bit integers, or floats outside
      [0, 1].

    Args:
        source: The file, or its content.
        name: Name of the image for error messages if `source` is bytes.

    Returns:
        A PIL image of mode RGB.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a regular file, is not an image of `FORMATS`, is truncated, has values without a
            known white, or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels. (A file of a few kilobytes may expand to
            gigabytes.)

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2)).save(file, format="png")
        >>> decode_image(file.getvalue()).size
        (4, 2)
    """
    name = name if isinstance(source, bytes) else str(source)
    try:
        if not isinstance(source, bytes) and not stat.S_ISREG(source.stat().st_mode):
            raise ValueError("it is no regular file")  # opening a pipe would block
        with warnings.catch_warnings():
            # Above the limit Pillow only warns. It raises an error from twice the limit on.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # about damaged EXIF data, which does not affect the pixels
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                image.load()
                return in_colour(_upright(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ValueError(f"expected images of at most {limit} pixels, but got {name}: {error}") from error
    except FileNotFoundError:
        raise
    except _NoWhiteError as error:
        raise ValueError(f"expected {name} to be an image with a known white, but it has {error}") from error
    except Exception as error:  # for damaged files, decoders raise any kind of error
        raise ValueError(
            f"expected {name} to be an image, but it cannot be decoded as {', '.join(FORMATS)}: {error}"
        ) from error


class _NoWhiteError(Exception):
    """The value of white is unknown for this kind of image."""


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # for damaged EXIF data, Pillow raises any kind of error
        ImageOps.exif_transpose(image, in_place=True)
    return image


def in_colour(image: Image.Image) -> Image.Image:
    """Converts an image to RGB with 8 bits per channel, as described in `decode_image`."""
    if SIGNED in _tag(image, SAMPLE_FORMAT):
        raise _NoWhiteError("signed values")
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Scales a grey image with more bits. Pillow's own conversion would clip at 255."""
    white = _white_of(image)
    values = np.asarray(image).astype(np.float32)
    if not (values.min() >= 0.0 and values.max() <= white):  # NaN is neither
        raise _NoWhiteError(f"values from {values.min():g} to {values.max():g}, not in [0, {white:g}]")
    key = image.info.get("transparency")
    if key is not None:
        values[values == key] = white
    shares = values / white
    if _tag(image, WHITE_IS_0) == (0,):
        shares = 1.0 - shares
    return Image.fromarray((255.0 * shares).round().astype(np.uint8))


def _white_of(image: Image.Image) -> float:
    if image.mode == "F":
        return 1.0
    if image.mode.startswith("I;16"):
        bits = _tag(image, SAMPLE_BITS) or (16,)
        return float(2 ** bits[0] - 1)
    # Pillow scales a PGM with any maximum to 16 bits. Older versions open 16-bit PNG in mode "I", too.
    if image.format in ("PNG", "PPM"):
        return 65535.0
    raise _NoWhiteError("32-bit integers")


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """The values of a tag of a TIFF file. Empty if there is no such tag."""
    found = getattr(image, "tag_v2", {}).get(number, ())
    return found if isinstance(found, tuple) else (found,)
