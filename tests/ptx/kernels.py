"""The PTX of hex_ssl's kernels, compiled as the package compiles it."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from hex_ssl import _core

# As the emulated chips'.
CAPABILITY, HOPPER = (8, 6), (9, 0)
OPERANDS = {
    "BF16": (torch.bfloat16, False),
    "F16": (torch.float16, False),
    "TF32": (torch.float32, True),
    "SPLIT_TF32": (torch.float32, False),
}
"""What the kernels multiply, by the dtype of the rows and whether tf32 is allowed."""
WGMMA = "_WGMMA"
"""Stands behind the operand of variants that have the kernels for sm_90a."""
UNUSED = (
    "sums", "sums_general", "survivors", "ranges", "closest_positives", "maxima", "settle_shifts",
    "settle_thresholds", "gradient", "gradient_general", "select", "select_failed", "sift",
)  # fmt: skip
"""What no call launches beside the kernels for sm_90a."""


def operand_of(dtype: torch.dtype) -> str:
    """What rows of a dtype are multiplied as where tf32 is not allowed."""
    return next(name for name, (of, tf32) in OPERANDS.items() if of == dtype and not tf32)


def padded(dims: int) -> int:
    """The dimensions that the kernels are compiled for."""
    return -(-dims // 32) * 32


def kernel_names(sources: str) -> list[str]:
    """The kernels of sources."""
    return re.findall(r"^KERNEL\([^)]+\) (\w+)\(", sources, re.MULTILINE)


FUNCTION = re.compile(
    r"^(?:KERNEL\([^)]*\)|(?:template <[^>]*>\s)?DEVICE [\w:<>&*\s]*?)\s*\b(\w+)\((?:[^\n]*\}$|.*?^\})",
    re.MULTILINE | re.DOTALL,
)
"""A kernel or a function of a file, and its name. It ends with its first line, or with a brace at a line's start."""


def kernels_running(file: str, place: int) -> set[str]:
    """The kernels of a file that run the function at a place in its text. Outside of functions, all of them."""
    running: set[str] = set()
    for found in FUNCTION.finditer(file):  # a function stands before those that call it
        if found.start() <= place < found.end() or running.intersection(re.findall(r"\w+", found[0])):
            running.add(found[1])
    kernels = set(kernel_names(file))
    return kernels & running or kernels


def without(sources: str, names: Iterable[str]) -> str:
    """The sources with these kernels as templates that nobody uses. They are not compiled, which saves the time."""
    chosen = "|".join(names) or "(?!)"
    return re.sub(rf"\nKERNEL\([^)]+\) (?=({chosen})\()", "\ntemplate <int> __global__ void ", sources)


def compiled(cache: Path, operand: str, dims: int, sources: str | None = None) -> str:
    """The PTX of one variant.

    Args:
        cache: The folder where compiled kernels are kept, by content.
        operand: One of `OPERANDS`, `WGMMA` behind it where the kernels for sm_90a are meant too.
        dims: Dimensions of the rows.
        sources: The kernels' sources, where these are not the extension's own.

    Returns:
        The text.

    Raises:
        RuntimeError: There is no NVRTC, or it refuses the sources.
    """
    wgmma = operand.endswith(WGMMA)
    dtype, tf32 = OPERANDS[operand.removesuffix(WGMMA)]
    name, capability = str(dtype).removeprefix("torch."), HOPPER if wgmma else CAPABILITY
    sources = sources or _core.cuda_sources()
    return _core.cuda_ptx(capability, dims, name, tf32, without(sources, UNUSED) if wgmma else sources, cache, wgmma)


def sampled_columns(columns: int, keys: int) -> list[int]:
    """The keys that the kernel `sample` looks at, as `sampled_column` in select.cu says."""

    def place(at: int) -> int:
        digest = at
        digest = (digest ^ digest >> 16) * 0x85EBCA6B % 2**32
        digest = (digest ^ digest >> 13) * 0xC2B2AE35 % 2**32
        part = 2**32 // columns
        return (at * part + (digest ^ digest >> 16) % part) * keys >> 32

    return [place(at) for at in range(columns)]
