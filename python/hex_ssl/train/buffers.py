"""The memory of a training step on a CPU, kept from one step to the next."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Names of glibc's settings, see mallopt(3)."""

LARGEST = 2**31 - 1
USUAL_THRESHOLD, USUAL_TRIM, USUAL_MAPPINGS = 32 * 2**20, 64 * 2**20, 65536
"""What glibc's own settings rise to by themselves while large buffers come and go."""


@contextmanager
def kept_buffers() -> Iterator[None]:
    """Within, memory that is freed stays with the process, for the next step to use.

    glibc gives a buffer of over 32 MB back to the system as soon as it is freed. In training, the same activations
    come again with each step, and the system has to find and clear their pages each time: a third of a step's time for
    images of 32 x 32 in batches of 256. Afterwards, what is free goes back. Numbers do not change. Where the C library
    is another one than glibc, nothing happens.
    """
    library = None if os.name == "nt" else ctypes.CDLL(None)
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_TRIM_THRESHOLD, LARGEST)
    if not library.mallopt(M_MMAP_THRESHOLD, LARGEST):  # an older glibc takes no more than 32 MB
        library.mallopt(M_MMAP_MAX, 0)
    try:
        yield
    finally:
        library.mallopt(M_TRIM_THRESHOLD, USUAL_TRIM)
        library.mallopt(M_MMAP_THRESHOLD, USUAL_THRESHOLD)
        library.mallopt(M_MMAP_MAX, USUAL_MAPPINGS)
        library.malloc_trim(0)
