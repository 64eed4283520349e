"""The PTX of hex_ssl's kernels, compiled as the package compiles it."""

from pathlib import Path

import torch

from hex_ssl import _core

# As the emulated chip's.
CAPABILITY = (8, 6)
OPERANDS = {
    "BF16": (torch.bfloat16, False),
    "F16": (torch.float16, False),
    "TF32": (torch.float32, True),
    "SPLIT_TF32": (torch.float32, False),
}
"""What the kernels multiply, by the dtype of the rows and whether tf32 is allowed."""


def operand_of(dtype: torch.dtype) -> str:
    """What rows of a dtype are multiplied as where tf32 is not allowed."""
    return next(name for name, (of, tf32) in OPERANDS.items() if of == dtype and not tf32)


def padded(dims: int) -> int:
    """The dimensions that the kernels are compiled for."""
    return -(-dims // 32) * 32


def compiled(cache: Path, operand: str, dims: int, sources: str | None = None) -> str:
    """The PTX of one variant.

    Args:
        cache: The folder where compiled kernels are kept, by content.
        operand: One of `OPERANDS`.
        dims: Dimensions of the rows.
        sources: The kernels' sources, where these are not the extension's own.

    Returns:
        The text.

    Raises:
        RuntimeError: There is no NVRTC, or it refuses the sources.
    """
    dtype, tf32 = OPERANDS[operand]
    name = str(dtype).removeprefix("torch.")
    return _core.cuda_ptx(CAPABILITY, dims, name, tf32, sources or _core.cuda_sources(), cache)
