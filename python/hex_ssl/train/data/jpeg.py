"""JPEG files as tensors, by torchvision's decoder: the pixels that Pillow gives, in half of its time."""

import io
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from hex_ssl.train.data.images import decode_image

BEGINNING = b"\xff\xd8\xff"
"""Of each JPEG file."""


def decode_pixels(source: Path | bytes, name: str = "an image") -> Image.Image | Tensor:
    """An image as `decode_image` gives it, but that of an ordinary JPEG as a tensor.

    Pillow decodes all else, and says what is wrong with what is no image, is cut short or has too many pixels: images
    of other formats, JPEGs that are to be turned, and those whose colours are neither RGB nor grey.

    Args:
        source: The file, or what it holds.
        name: What to call an image that comes as bytes in an error.

    Returns:
        A PIL image in colour, or uint8 [3, H, W] with the channels last in memory.

    Raises:
        ValueError: See `decode_image`.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (4, 2)).save(file, format="jpeg")
        >>> decode_pixels(file.getvalue()).shape
        torch.Size([3, 2, 4])
    """
    encoded = _encoded(source)
    if _is_ordinary(encoded):
        try:
            return decode_jpeg(torch.from_numpy(encoded), ImageReadMode.RGB)
        except RuntimeError:
            pass  # a damaged file, of which Pillow knows more
    return decode_image(source, name)


def _encoded(source: Path | bytes) -> np.ndarray:
    """The bytes of a JPEG; of anything else, none."""
    if isinstance(source, bytes):
        return np.frombuffer(bytearray(source) if source.startswith(BEGINNING) else b"", np.uint8)
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            return np.empty(0, np.uint8)
        with source.open("rb") as file:
            is_jpeg = file.read(len(BEGINNING)) == BEGINNING
            file.seek(0)
            return np.fromfile(file, np.uint8) if is_jpeg else np.empty(0, np.uint8)
    except OSError:
        return np.empty(0, np.uint8)


def _is_ordinary(encoded: np.ndarray) -> bool:
    """Whether it is a JPEG that Pillow would take, upright, grey or of red, green and blue. Its pixels are not read."""
    if not len(encoded):
        return False
    with warnings.catch_warnings():
        # As in `decode_image`: also an image that Pillow would only warn of has too many pixels.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            with Image.open(io.BytesIO(encoded.data), formats=("JPEG",)) as image:
                upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
                return image.format == "JPEG" and image.mode in ("RGB", "L") and upright
        except Exception:  # whatever it stumbles over, `decode_image` says
            return False
