"""The resources of the kernels' cubins. `python -m tests.cubins` compiles every variant and writes `cubins.json`.

That takes minutes, too long for each run of the tests. `test_cuda_cubins.py` has the budget. It checks the table
against the sources and against a few variants that it compiles itself.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from hex_ssl import _core

from .ptx.kernels import OPERANDS

TABLE = Path(__file__).with_suffix(".json")
CAPABILITY = (9, 0)
"""Of the table: the chip that the kernels are tuned for."""

Resources = dict[str, dict[str, int]]
"""By kernel: "REG", "STACK", "SHARED", "LOCAL", ..."""


def variants() -> Iterator[tuple[str, int]]:
    """Every operand and padded dimension that the kernels are compiled for."""
    for operand, (dtype, _) in OPERANDS.items():
        for dims in range(32, (512 if dtype.itemsize == 2 else 256) + 1, 32):
            yield operand, dims


def digest() -> str:
    """Of the sources, but for comments and white space."""
    code = re.sub(r"//[^\n]*", "", _core.cuda_sources())
    return hashlib.sha256(" ".join(code.split()).encode()).hexdigest()


def tools() -> Path:
    """The folder of `cuobjdump`, which Triton's package brings.

    Raises:
        ImportError: There is no Triton.
    """
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def run_tool(name: str, *arguments: object) -> str:
    """What one of the tools prints."""
    command = [str(argument) for argument in (tools() / name, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resources(cubin: Path) -> Resources:
    """What each kernel of a cubin takes."""
    dump = run_tool("cuobjdump", "--dump-resource-usage", cubin)
    found = re.findall(r"Function (\w+):\s*\n\s*(\S.*)", dump)
    return {name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)} for name, line in found}


def compile_variant(operand: str, dims: int) -> Resources:
    """Registers and bytes of the stack of one variant's kernels."""
    dtype, tf32 = OPERANDS[operand]
    binary, _ = _core.cuda_cubin(CAPABILITY, dims, str(dtype).removeprefix("torch."), tf32)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        cubin.write_bytes(binary)
        return {name: {key: found[key] for key in ("REG", "STACK")} for name, found in resources(cubin).items()}


def write_table() -> None:
    """Compile every variant, two at a time, and write the table."""

    def compile_one(variant: tuple[str, int]) -> Resources:
        found = compile_variant(*variant)
        spilling = {name: each["STACK"] for name, each in found.items() if each["STACK"]}
        print("_".join(map(str, variant)), spilling, file=sys.stderr, flush=True)
        return found

    with ThreadPoolExecutor(2) as pool:
        every = dict(zip(variants(), pool.map(compile_one, variants()), strict=True))
    table = {
        "nvrtc": torch.version.cuda,
        "sources": digest(),
        "variants": {f"{operand}_{dims}": found for (operand, dims), found in every.items()},
    }
    lines = json.dumps(table, indent=1, sort_keys=True)
    # A kernel on a line.
    TABLE.write_text(re.sub(r"{\s*(\"REG\": \d+,)\s*(\"STACK\": \d+)\s*}", r"{\1 \2}", lines) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("HEX_SSL_CACHE", tempfile.mkdtemp())
    write_table()
