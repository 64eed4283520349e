"""Files that others may have written: read without running what is in them, and with one kind of error.

A parser that is fed a damaged or a hostile file raises whatever it stumbles over. Here that becomes a `ValueError` that
names the file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONGEST = 500
"""Characters of a parser's message that an error quotes."""


@contextmanager
def reading(path: str | Path, expected: str) -> Iterator[None]:
    """Around the parsing of a file: what goes wrong becomes a `ValueError` that names it.

    An `OSError` or `ValueError` that names the file already passes as it is, a `FileNotFoundError` in any case.

    Args:
        path: The file, or the folder of several.
        expected: What was expected of it, such as "to be a checkpoint".

    Raises:
        ValueError: Something else was raised.

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
    """A checkpoint of a run, on the CPU: tensors and plain values; a pickle that would run code is refused.

    Args:
        file: A `.ckpt` in a run folder.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged, holds more than tensors and plain values, or is no checkpoint of hex-ssl.
    """
    import torch  # here: who reads YAML has no use for it

    with reading(file, "to be a checkpoint of tensors and plain values"):
        # Said, not left to the default: the environment can turn that off.
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        missing = {"state_dict", "loops", "global_step"} - checkpoint.keys()
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    return dict(checkpoint)


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """Whole epochs of training behind a checkpoint; Lightning's own number also counts one that has only begun from 0.

    Args:
        checkpoint: From `read_checkpoint`.
    """
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
