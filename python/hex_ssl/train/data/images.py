"""What a dataset of images is, wherever its images come from."""

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
"""The files that are images: those of torchvision's ImageFolder, and the others of `FORMATS`."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What Pillow may take a file for, whatever its name: of the other formats some start a program (EPS).

JPEG includes MPO, of cameras; some images that published datasets call .jpg are GIF.
"""

UNLABELLED = -1

MOST_CLASSES = 1_000_000
"""A label or a superclass beyond is taken for damage: there is memory for each class."""

WHITE_IS_0, SAMPLE_BITS, SAMPLE_FORMAT = 262, 258, 339
"""TIFF's tags of which way grey runs (0: the other way), how many bits a value has, and of which kind it is."""

SIGNED = 2

SMALL_SIDE = 64
"""Side in pixels up to which images may be kept decoded, which takes a few times the memory of the files."""

SMALL_BYTES = 1 << 30
"""Memory that decoded images may take."""


class ImageDataset(ABC, Dataset[tuple[Image.Image | Tensor, int]]):
    """Images as (image, label).

    An image is a PIL image, or a tensor [C, H, W], uint8 in [0, 255] or float32 in [0, 1]; a label is -1 where an
    image has none.

    Args:
        labels: One per image, -1 without.
        classes: How many classes there are; 0 where nothing is labelled.
        class_names: Their names, where they are known.
        superclasses: The superclass of each class, None where there are none.
        superclass_names: Their names, where they are known.
        size: Height and width in pixels if all images have the same, else None.
        channels: 1 for grey, 3 for colour.

    Attributes:
        files_digest: SHA-256 of the files' names in their order; None where images have no files of their own.

    Raises:
        ValueError: A label is not a class, or a superclass is none of `MOST_CLASSES`.
    """

    class_folders: tuple[str, ...] = ()
    """What the files call the classes, where `class_names` are others."""

    left_out: tuple[str, ...] = ()
    """Folders beside the splits of which nothing is read."""

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
        """Other superclasses.

        Args:
            superclasses: The superclass of each class, None where there are none.
            names: Their names, where they are known.

        Raises:
            ValueError: They are not as many as classes, or one is none of `MOST_CLASSES`.
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
        """Whether images are taken from memory, ready as tensors, rather than decoded."""
        return False

    @abstractmethod
    def image(self, index: int) -> Image.Image | Tensor:
        """The image of a row."""

    def pixels(self, index: int) -> Image.Image | Tensor:
        """The same image, as it is decoded fastest: for a JPEG a tensor, uint8 [3, H, W], channels last in memory."""
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
    """The images decoded, once for all, where they are small and of one size; else the dataset as it is.

    Args:
        dataset: Images that are decoded each time they are asked for.

    Returns:
        `ArrayImages` where all images have one size of at most `SMALL_SIDE` pixels a side and together take at most
        `SMALL_BYTES`. A dataset with an image that cannot be decoded stays as it is: who asks for that one is told.
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
    """[C, H, W] in [0, 255]; None of an image that has floating-point values."""
    if isinstance(image, Image.Image):
        return np.asarray(image).transpose(2, 0, 1)
    return image.numpy() if image.dtype == torch.uint8 else None


class FileImages(ImageDataset):
    """Images in files, decoded when they are asked for, in colour.

    Args:
        root: Folder that all of them are in.
        paths: Where each is, below `root`.
        labels, classes: See `ImageDataset`.
        class_names, superclasses, superclass_names, size: See `ImageDataset`.
        class_folders: What the files call the classes, where `class_names` are others.

    Raises:
        ValueError: A path leaves `root`; see also `ImageDataset`.
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
        # One array, not a list of strings: counting references to those would copy them into each worker
        # (pytorch/pytorch#13246), which for millions of images is gigabytes.
        self.paths = np.array([os.fsencode(path) for path in (within(root, each) for each in paths)], dtype=np.bytes_)
        self.files_digest = hashlib.sha256(self.paths.tobytes()).hexdigest()

    def path(self, index: int) -> Path:
        """The file of a row."""
        return self.root / os.fsdecode(self.paths[index].item())

    def image(self, index: int) -> Image.Image:
        """The image, in colour."""
        return decode_image(self.path(index))

    def pixels(self, index: int) -> Image.Image | Tensor:
        """See `ImageDataset`."""
        from hex_ssl.train.data.jpeg import decode_pixels

        return decode_pixels(self.path(index))


def within(root: Path, path: str) -> str:
    """A path that a list or a table gives, which may not leave its folder as it is written; links are followed.

    Raises:
        ValueError: It is absolute or has `..` in it.

    Example:
        >>> within(Path("birds"), "001.Albatross/1.jpg")
        '001.Albatross/1.jpg'
    """
    if os.path.isabs(path) or ".." in path.split(os.sep):
        raise ValueError(f"expected the paths of images to lead to files below {root}, but got {path}")
    return path


def decode_image(source: Path | bytes, name: str = "an image") -> Image.Image:
    """An image from its file or the bytes of one, in colour, 8 bits a channel, as a viewer shows it.

    - Upright: turned as its EXIF orientation says.
    - Transparent pixels are on white, also those of a palette.
    - More than 8 bits are scaled: white is 65,535 in 16-bit images, a PGM's own maximum, 1.0 in floating-point ones.
      Where white is not known, the image is refused: values with a sign or of 32 bits, or floats outside [0, 1].

    Args:
        source: The file, or what it holds.
        name: What to call an image that comes as bytes in an error.

    Raises:
        ValueError: It is no regular file, or no image of `FORMATS`, is cut short, has values without a known white, or
            more than `PIL.Image.MAX_IMAGE_PIXELS` pixels. (A file of a few kilobytes may hold gigabytes of one colour.)

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2)).save(file, format="png")
        >>> decode_image(file.getvalue()).size
        (4, 2)
    """
    name = name if isinstance(source, bytes) else str(source)
    try:
        if not isinstance(source, bytes) and not stat.S_ISREG(source.stat().st_mode):
            raise ValueError("it is no regular file")  # a pipe would be waited for
        with warnings.catch_warnings():
            # Beyond the limit Pillow warns, and is silent to who has silenced it; only from twice it is that it stops.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF data, without which the pixels are whole
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                image.load()
                return in_colour(_upright(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ValueError(f"expected images of at most {limit} pixels, but got {name}: {error}") from error
    except FileNotFoundError:
        raise
    except _NoWhiteError as error:
        raise ValueError(f"expected {name} to be an image of which white is known, but it has {error}") from error
    except Exception as error:  # of a damaged file, a decoder raises whatever it stumbles over
        raise ValueError(
            f"expected {name} to be an image, but it cannot be decoded as {', '.join(FORMATS)}: {error}"
        ) from error


class _NoWhiteError(Exception):
    """Values of which nobody knows which one is white."""


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # damaged EXIF data raise anything
        ImageOps.exif_transpose(image, in_place=True)
    return image


def in_colour(image: Image.Image) -> Image.Image:
    """An image as RGB of 8 bits a channel, see `decode_image`."""
    if SIGNED in _tag(image, SAMPLE_FORMAT):
        raise _NoWhiteError("values with a sign")
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        image = _in_8_bits(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """A grey image of more bits, which Pillow itself would cut off at 255."""
    white = _white_of(image)
    values = np.asarray(image).astype(np.float32)
    if not (values.min() >= 0.0 and values.max() <= white):  # NaN is neither
        raise _NoWhiteError(f"values of {values.min():g} to {values.max():g}, not in [0, {white:g}]")
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
    if image.format in ("PNG", "PPM"):  # Pillow scales a PGM of any maximum to 16 bits; older ones have PNG so too
        return 65535.0
    raise _NoWhiteError("whole numbers of 32 bits")


def _tag(image: Image.Image, number: int) -> tuple[int, ...]:
    """A tag of a TIFF file; empty where there is none."""
    found = getattr(image, "tag_v2", {}).get(number, ())
    return found if isinstance(found, tuple) else (found,)
