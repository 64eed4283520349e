"""Step: the card, driver and versions; the prepared kernels; the card's own rates, by torch."""

import platform
import shutil
import subprocess
import sys
from importlib import metadata

import torch

import hex_ssl
from gpu import prepared
from gpu.records import REHEARSAL, emit
from gpu.workload import DEVICE, DTYPES, milliseconds, precision

PACKAGES = ("torch", "triton", "lightning", "pytorch-lightning", "timm", "torchvision", "nvidia-cuda-nvrtc", "numpy")


def versions() -> dict[str, str]:
    """Of the packages that are here."""
    found = {"python": sys.version.split()[0], "hex_ssl": hex_ssl.__version__, "cuda": str(torch.version.cuda)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def card() -> dict[str, object]:
    """What torch and nvidia-smi say of it."""
    if REHEARSAL:
        return {"name": "no GPU: a rehearsal on the CPU", "kernel": platform.release()}
    properties = torch.cuda.get_device_properties(0)
    found: dict[str, object] = {
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "capability": list(torch.cuda.get_device_capability()),
        "l2_bytes": properties.L2_cache_size,
        "kernel": platform.release(),
    }
    if shutil.which("nvidia-smi"):
        fields = ["driver_version", "clocks.max.sm", "power.limit"]
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        found |= dict(zip(fields, (each.strip() for each in done.stdout.split(",")), strict=False))
    return found


def rates() -> None:
    """Matrix products in FLOP/s, and a copy in bytes/s, read and written."""
    size, large = (256, 1 << 16) if REHEARSAL else (8192, 1 << 31)
    for dtype in DTYPES:
        with precision(dtype):
            a, b = (torch.randn(size, size, device=DEVICE).to(DTYPES[dtype]) for _ in range(2))
            out = torch.empty_like(a)
            took = milliseconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 0.4)
        emit("rate", what=dtype, per_second=2e3 * size**3 / took)
    source = torch.empty(large, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    emit("rate", what="copy", per_second=2e3 * large / milliseconds(lambda: target.copy_(source), 0.4))


if __name__ == "__main__":
    emit("machine", card=card(), versions=versions(), config=hex_ssl.show_config())
    emit("prepared", **prepared.state())
    rates()
