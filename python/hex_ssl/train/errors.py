"""Tells errors for the user, which are shown as one line, from faults of this program, which need a traceback."""

import os
import re
import sys
import traceback
from pathlib import Path

PACKAGE = str(Path(__file__).parents[1]) + os.sep
FRAME = re.compile(r'^  File "(.+)", line \d+, in .+\n {4}(\S.*)$', re.MULTILINE)
"""A frame of a traceback, as text: its file, and its line of code."""
SHARED_MEMORY = re.compile(r"shared memory|Bus error|/torch_\d|Too many open files|ancdata")
"""torch's messages if the DataLoader workers lack shared memory, or file descriptors for it."""
NO_MEMORY = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)


def error_line(error: BaseException, setting: str = "num_workers") -> str | None:
    """One line that tells a user about an error, unless the error is a fault of this program.

    A line is for an error of the disk, of memory, or of a DataLoader worker, and for any error that this package raises
    on purpose. If a DataLoader worker sent the error, the traceback in that worker decides.

    Args:
        error: The exception that was raised.
        setting: The name of the setting for the number of DataLoader workers.

    Returns:
        The line; None if the traceback should be shown.

    Example:
        >>> error_line(OSError(28, "No space left on device", "metrics.csv"))
        "[Errno 28] No space left on device: 'metrics.csv'"
        >>> error_line(KeyError("loss")) is None
        True
    """
    message = " ".join(str(error).split())
    if isinstance(error, (RuntimeError, OSError)) and SHARED_MEMORY.search(str(error)):
        return (
            f"the DataLoader workers ran out of shared memory (/dev/shm) or of open files: use fewer workers "
            f"(`{setting}`, 0 for none), or allow more, for example with `docker run --shm-size=8g`; torch says: "
            f"{message}"
        )
    if isinstance(error, RuntimeError) and message.startswith("DataLoader worker"):
        return (
            f"a DataLoader worker died, for example for lack of memory or shared memory (/dev/shm): use fewer workers "
            f"(`{setting}`, 0 for none); torch says: {message}"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(message)):
        return f"out of memory: use a smaller batch size; {message or type(error).__name__}"
    if isinstance(error, OSError):
        return message
    if not _raised_here(error):
        return None
    name = type(error).__name__
    return " ".join(_whole(error).rpartition(f"\n{name}: ")[2].split()) if "Original Traceback" in message else message


def _raised_here(error: BaseException) -> bool:
    """Whether the innermost frame is a `raise` of this package."""
    frames = FRAME.findall(_whole(error))
    return bool(frames) and frames[-1][0].startswith(PACKAGE) and frames[-1][1].startswith("raise ")


def _whole(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def show(line: str) -> None:
    """Prints an error's line."""
    print(f"error: {line}", file=sys.stderr, flush=True)
