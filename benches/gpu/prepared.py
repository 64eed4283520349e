"""The kernels compiled ahead, without a GPU, into a cache that a call then uses.

A file's name in the cache is the digest of the kernels' sources, NVRTC's major and minor version, and the compiler's
options (architecture, dimensions, operand): `src/cuda/binary.rs`. So a machine finds them that has the same extension
and the same NVRTC; its Python, torch, driver and paths play no part. `prepared.json` beside them tells both.

`prepared.tar.xz` has all that was prepared, in less than a tenth of the size.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from gpu import wgmma

CUBINS, MANIFEST, ARCHIVE = "cubins", "prepared.json", "prepared.tar.xz"
KERNELS = [("bfloat16", False, 128), ("float32", False, 128), ("float32", True, 128), ("float16", False, 128)]
"""What every step computes with: dtype, whether as tf32, dimensions. Then what `tests/gpu` adds."""
KERNELS += [(dtype, False, dims) for dtype, sizes in {
    "bfloat16": (64, 96, 256), "float16": (64, 256), "float32": (32, 64, 96, 256),
}.items() for dims in sizes]  # fmt: skip

Kernel = tuple[str, bool, int]


def installed() -> ModuleType:
    """The extension."""
    import torch  # noqa: F401 -- NVRTC comes with it, and the extension finds it so

    from hex_ssl import _core

    return _core


def nvrtc() -> str:
    """The version of NVRTC that the extension has found, or why there is none."""
    try:
        installed().cuda_cubin((99, 0), 32, "bfloat16", False)
    except RuntimeError as error:  # it knows no such GPU, and says so with its version
        found = re.match(r"NVRTC (\d+\.\d+) has no code", str(error))
        return found.group(1) if found else str(error)
    raise RuntimeError("expected compute capability 99.0 to be unknown to NVRTC")


def ingredients() -> dict[str, str]:
    """What the names of the cache's files depend on, beside the options."""
    return {"sources": hashlib.sha256(installed().cuda_sources().encode()).hexdigest(), "nvrtc": nvrtc()}


def clear(folder: Path) -> None:
    """Removes kernels of other sources, or that another NVRTC compiled."""
    manifest = folder / MANIFEST
    if manifest.exists() and not ingredients().items() <= json.loads(manifest.read_text()).items():
        shutil.rmtree(folder)


def compile_all(
    folder: Path, capabilities: Iterable[str], kernels: Iterable[Kernel], core: ModuleType | None = None
) -> None:
    """Compiles what is not in the folder yet, two at a time, and writes what is there to its manifest."""
    os.environ["HEX_SSL_CACHE"] = str(folder)
    extension = core or installed()

    def one(capability: str, kernel: Kernel) -> None:
        dtype, tf32, dims = kernel
        major, minor = (int(number) for number in capability.split("."))
        start = time.monotonic()
        binary, found = extension.cuda_cubin((major, minor), dims, dtype, tf32)
        took = "there already" if found else f"{time.monotonic() - start:.0f} s"
        name = "tf32" if tf32 else dtype
        # Changed sources are timed by the kernels of mma.sync.
        if core is None and wgmma.compile_ahead(extension, (major, minor), dtype, tf32, dims):
            name += " (and wgmma)"
        print(f"{capability}, {name}, {dims} dimensions: {len(binary) / 1e3:.0f} KB, {took}", flush=True)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one, each, kernel) for each in capabilities for kernel in kernels]:
            done.result()
    files = sorted(path.name for path in folder.glob("*.cubin"))
    (folder / MANIFEST).write_text(json.dumps({**ingredients(), "files": files}, indent=1))


def pack(folder: Path, names: Iterable[str]) -> None:
    """Writes these folders of it to the archive."""
    with tarfile.open(folder / ARCHIVE, "w:xz") as archive:
        for name in names:
            if (folder / name).exists():
                archive.add(folder / name, name)


def unpack(folder: Path) -> None:
    """What is in the archive, if there is one and nothing else."""
    if (folder / ARCHIVE).exists() and not (folder / CUBINS).exists():
        with tarfile.open(folder / ARCHIVE) as archive:
            archive.extractall(folder, filter="data")


def state() -> dict[str, object]:
    """Whether the kernels in the cache are this extension's, and why not."""
    folder = os.environ.get("HEX_SSL_CACHE")
    if folder is None or not (Path(folder) / MANIFEST).exists():
        return {"matches": False, "reason": "nothing was prepared: kernels are compiled when first used"}
    then, now = json.loads((Path(folder) / MANIFEST).read_text()), ingredients()
    for name, text in (("sources", "an extension of other sources"), ("nvrtc", "another NVRTC")):
        if then[name] != now[name]:
            return {"matches": False, "reason": f"prepared by {text}: {then[name][:12]}, not {now[name][:12]}"}
    return {"matches": True, "reason": "", "files": len(then["files"])}


def compiled_since(folder: Path) -> list[str]:
    """Files of the cache that were not prepared: each cost a call some seconds."""
    manifest = folder / MANIFEST
    known = set(json.loads(manifest.read_text())["files"]) if manifest.exists() else set()
    return sorted(path.name for path in folder.glob("*.cubin") if path.name not in known)
