"""Builds the emulator of the CUDA kernels: their own sources, compiled as C++ against `src/cuda/emulation`."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch

CUDA = Path(__file__).parents[2] / "src" / "cuda"
OPERANDS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "SPLIT_TF32"}
"""What the kernels multiply rows of a dtype as; "TF32" where that is allowed."""

# Not -ffast-math, and no contraction: what the kernels spell out as a product is one.
FLAGS = ("-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread")


def padded(dims: int) -> int:
    """The dimensions that the kernels are compiled for."""
    return -(-dims // 32) * 32


def sources() -> dict[str, str]:
    """The emulator's sources by path below `src/cuda`."""
    files = [*CUDA.glob("kernels/*.cu"), *CUDA.glob("emulation/*.[ch]pp")]
    return {str(file.relative_to(CUDA)): file.read_text() for file in sorted(files)}


def build(
    cache: Path, operand: str, dims: int, texts: dict[str, str] | None = None, flags: tuple[str, ...] = ()
) -> Path:
    """The shared object of one variant, built where there is none from the same texts and flags.

    Args:
        cache: Where built emulators are kept.
        operand: "BF16", "F16", "TF32" or "SPLIT_TF32".
        dims: Padded dimensions.
        texts: The sources, where these are not those of the repository.
        flags: More of the compiler's options.

    Returns:
        The path for HEX_SSL_CUDA_EMULATOR.

    Raises:
        subprocess.CalledProcessError: The sources do not compile; their messages are on the standard error.
    """
    texts = sources() if texts is None else texts
    options = (*FLAGS, *flags, f"-DDIMS={dims}", f"-DOPERAND={operand}")
    key = hashlib.sha256(repr((options, sorted(texts.items()))).encode()).hexdigest()[:32]
    library = cache / f"{operand}_{dims}_{key}.so"
    if not library.exists():
        folder = cache / f"{key}.{os.getpid()}"
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        emulation, built = folder / "emulation", folder / "built.so"
        compiler = os.environ.get("CXX", "g++")
        subprocess.run(
            [compiler, *options, emulation / "variant.cpp", emulation / "engine.cpp", "-o", built], check=True
        )
        built.replace(library)
        shutil.rmtree(folder)
    return library
