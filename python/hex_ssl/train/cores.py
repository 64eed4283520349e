"""The cores of this machine."""

import os


def available_cores() -> int:
    """The number of cores that this process may use. Where the system does not say, all cores count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
