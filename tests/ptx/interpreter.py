"""Builds the interpreter of PTX in this folder, and talks to it.

`load` and `schedule` are for the kernels of hex_ssl, which launches them in the library that HEX_SSL_CUDA_EMULATOR
names if HEX_SSL_BACKEND=emulated. `launch` runs any other kernel.
"""

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

SOURCES = Path(__file__).parent
PARAMETERS = SOURCES.parents[1] / "src" / "cuda" / "kernels" / "parameters.cu"
# Not -ffast-math, and no contraction: what PTX spells out as a product is one.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fwrapv", "-ffp-contract=off", "-fPIC", "-fno-semantic-interposition",
         "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers")  # fmt: skip


class PtxError(RuntimeError):
    """What a program did wrong, or PTX that the interpreter does not know."""


class Schedule(NamedTuple):
    """How launches are scheduled."""

    seed: int = 1
    random_lanes: bool = False
    """Whether any lanes of a diverged warp may go on first; else those that are furthest behind."""
    resident_blocks: int = 2
    """Blocks that take turns."""
    extra_bits: int = -1
    """Tensor cores cut sums off, this many bits below float32's precision; -1: they round each once."""
    blocks: int = 1
    """Of the hardware's blocks of terms, added up at once; where sums are cut off."""
    launch_rows: int = 0
    """At most, of launches that keep similarities of each row, a multiple of 256; 0: as many as memory has room for."""


class _Array(ctypes.Structure):
    _fields_ = (
        ("at", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("writable", ctypes.c_int),
        ("written", ctypes.c_int),
    )


class Interpreter:
    """The library, loaded. There is one of a path in a process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.ptx_schedule.restype = None
        self._library.ptx_schedule.argtypes = (
            ctypes.c_uint64, ctypes.c_int, ctypes.c_uint32, ctypes.c_int, ctypes.c_int, ctypes.c_uint32,
        )  # fmt: skip

    def _call(self, function: str, *arguments: object) -> None:
        message = ctypes.create_string_buffer(4096)
        if getattr(self._library, function)(*arguments, message, ctypes.c_size_t(len(message))):
            raise PtxError(message.value.decode())

    def load(self, name: str, text: str) -> None:
        """Take PTX under a name, such as "BF16_64", in place of what had it."""
        self._call("ptx_load", name.encode(), text.encode())

    def replace(self, name: str, text: str) -> None:
        """Take the kernels of a text in place of those of the same names. What an earlier text replaced is back."""
        self._call("ptx_replace", name.encode(), text.encode())

    def decode(self, name: str) -> None:
        """Decode all of its kernels, which launches do one by one."""
        self._call("ptx_decode", name.encode())

    def schedule(self, schedule: Schedule) -> None:
        """Schedule the next launches so."""
        self._library.ptx_schedule(*schedule)

    def launch(
        self,
        text: str,
        arguments: list[Tensor | int | float | bytes],
        *,
        kernel: str = "kernel",
        blocks: tuple[int, int, int] = (1, 1, 1),
        threads: int = 32,
        shared_bytes: int = 0,
        outputs: tuple[int, ...] = (),
        unwritten: tuple[int, ...] = (),
        memory: tuple[Tensor, ...] = (),
    ) -> None:
        """Run one kernel of a PTX text.

        Args:
            text: The PTX.
            arguments: Tensors, whose addresses the kernel gets, 32-bit integers and floats, and structures as bytes.
            kernel: The kernel's name.
            blocks: The grid.
            threads: Of a block.
            shared_bytes: Dynamic shared memory of a block.
            outputs: Which arguments the kernel may write.
            unwritten: Which of these count as not written before.
            memory: Tensors that the structures point to; the kernel may write them.

        Raises:
            PtxError: What the kernel does wrong.
        """
        self.load("text", text)
        values = [self._argument(each) for each in arguments]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        arrays = [
            _Array(each.data_ptr(), each.numel() * each.element_size(), k in outputs, k not in unwritten)
            for k, each in enumerate(arguments)
            if isinstance(each, Tensor)
        ]
        arrays += [_Array(each.data_ptr(), each.numel() * each.element_size(), 1, 1) for each in memory]
        self._call(
            "ptx_launch", b"text", kernel.encode(), (ctypes.c_uint32 * 3)(*blocks), threads, shared_bytes, pointers,
            (_Array * len(arrays))(*arrays), len(arrays),
        )  # fmt: skip

    @staticmethod
    def _argument(value: Tensor | int | float | bytes) -> ctypes.Array[ctypes.c_char]:
        if isinstance(value, bytes):
            return ctypes.create_string_buffer(value, len(value))
        if isinstance(value, Tensor):
            bits = struct.pack("<Q", value.data_ptr())
        else:
            bits = struct.pack("<f" if isinstance(value, float) else "<i", value)
        return ctypes.create_string_buffer(bits, 8)


def build(cache: Path) -> Path:
    """The library, built where there is none of the same sources, compiler and flags.

    Args:
        cache: Where built libraries are kept.

    Returns:
        The path for HEX_SSL_CUDA_EMULATOR.

    Raises:
        subprocess.CalledProcessError: The sources do not compile; the messages are on the standard error.
    """
    compiler = os.environ.get("CXX", "g++")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    texts = {file.name: file.read_text() for file in sorted(SOURCES.glob("*.[ch]pp"))}
    # The structures, which stand before the first function.
    texts["parameters.hpp"] = PARAMETERS.read_text().partition("\nDEVICE")[0]
    key = hashlib.sha256(repr((version, FLAGS, cpu(), sorted(texts.items()))).encode()).hexdigest()[:32]
    library = cache / f"interpreter_{key}.so"
    # Of several processes, one builds, and the others wait.
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            _compile(compiler, texts, library)
    return library


def _compile(compiler: str, texts: dict[str, str], library: Path) -> None:
    folder = library.with_suffix(f".{os.getpid()}")
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)

    def compile_one(name: str) -> Path:
        made = (folder / name).with_suffix(".o")
        subprocess.run([compiler, *FLAGS, "-c", folder / name, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [name for name in texts if name.endswith(".cpp")]))
    subprocess.run([compiler, "-shared", "-Wl,-Bsymbolic", *objects, "-o", folder / "built.so"], check=True)
    (folder / "built.so").replace(library)
    shutil.rmtree(folder)


def cpu() -> str:
    """What -march=native depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))), torch.backends.cpu.get_cpu_capability()
    )
