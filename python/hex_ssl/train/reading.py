"""Reading of files that others may have written, without running code in them, and with one kind of error.

A parser may raise any exception on a damaged or hostile file. Here it becomes a `ValueError` that names the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST = 500
"""Maximum number of characters of a parser's message that an error quotes."""


@contextmanager
def reading(path: str | Path, expected: str) -> Iterator[None]:
    """Context manager for parsing a file. An exception becomes a `ValueError` that names the file.

    An `OSError` or `ValueError` that already names the file passes unchanged, and so does any `FileNotFoundError`.

    Args:
        path: The file, or a folder of files.
        expected: What the file was expected to be, such as "to be a checkpoint".

    Raises:
        ValueError: Any other exception was raised.

    Example:
        >>> with reading("epochs.txt", "to hold numbers"):
        ...     float("ten")
        Traceback (most recent call last):
        ValueError: expected epochs.txt to hold numbers, but got ValueError: could not convert string to float: 'ten'
    """
    try:
        yield
    except Exception as error:
        named = isinstance(error, (OSError, ValueError)) and str(path) in str(error)
        if named or isinstance(error, FileNotFoundError):
            raise
        text = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected {path} {expected}, but got {text[:LONGEST]}") from error


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of a run onto the CPU: tensors and plain values. A pickle that would run code is refused.

    Args:
        file: A `.ckpt` in a run folder.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is damaged, holds more than tensors and plain values, or is no checkpoint of hex-ssl.
    """
    import torch  # here: reading YAML does not need it

    with reading(file, "to be a checkpoint of tensors and plain values"):
        # Given explicitly, because an environment variable can change the default.
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        missing = {"state_dict", "loops", "global_step"} - checkpoint.keys()
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    return dict(checkpoint)


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """The number of whole epochs that a checkpoint has been trained for.

    Lightning's own number counts from 0 and includes an epoch that has only begun.

    Args:
        checkpoint: From `read_checkpoint`.
    """
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
