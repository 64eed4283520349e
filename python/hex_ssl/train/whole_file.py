"""Files that are either complete or absent, and errors of the disk that name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PART = ".part"
"""Suffix of a file's name while it is written."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Context manager for writing a file, which takes its place only when it is complete and on the disk.

    The file is written beside `path`, then renamed. Whenever the process dies, `path` is either the old file or the new
    one. If writing fails, the old file stays and nothing else is left.

    Args:
        path: Path of the file; its folder must exist.

    Raises:
        OSError: The file cannot be written, such as on a full disk. The message names `path`.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "figures.txt"
        >>> with whole_file(place) as file:
        ...     _ = file.write(b"0.97")
        >>> place.read_text(), len(list(place.parent.iterdir()))
        ('0.97', 1)
    """
    beside = path.with_name(path.name + PART)
    with naming(path):
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context manager for writing to a file. An error of the disk then names the file.

    Args:
        path: The file.

    Raises:
        OSError: An `OSError` was raised inside, or caused another error (torch's writer raises one of its own).
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None or cause.errno is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def write_whole(path: Path, text: str) -> None:
    """Writes a text as a whole file.

    Args:
        path: As for `whole_file`.
        text: Its content, written in UTF-8.

    Raises:
        OSError: See `whole_file`.
    """
    with whole_file(path) as file:
        file.write(text.encode())
