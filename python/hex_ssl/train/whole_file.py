"""Files that are whole or not there, and errors of the disk that name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PART = ".part"
"""What is added to the name of a file while it is written."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place when it is whole and on the disk.

    It is written beside `path`, then renamed: who reads `path` finds the old file or the new one, at whatever moment
    the process dies. Where writing fails, the old one stays and nothing else does.

    Args:
        path: Its place; the folder must be there.

    Raises:
        OSError: It cannot be written, such as on a full disk; the message names `path`.

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
    """Around writing to a file: an error of the disk names the file.

    Args:
        path: The file.

    Raises:
        OSError: One was raised within, or lies behind what was raised (torch's writer hides it behind another).
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
