"""How the kernels for sm_90a and launches that overlap are asked for, and whether this extension has these kernels."""

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

SETTING = "HEX_SSL_CUDA_WGMMA"
MMA, WGMMA = {SETTING: "0"}, {SETTING: "1"}
OVERLAPPING = {**WGMMA, "HEX_SSL_CUDA_OVERLAP": "1"}
"""Environments: the kernels of every chip, those for sm_90a, and these with launches that overlap."""


def is_there() -> bool:
    """Whether the extension reads the setting: its name is in the machine code then."""
    spec = find_spec("hex_ssl._core")
    return spec is not None and SETTING.encode() in Path(str(spec.origin)).read_bytes()


def compile_ahead(core: ModuleType, capability: tuple[int, int], dtype: str, tf32: bool, dims: int) -> bool:
    """The kernels for sm_90a into the cache; whether there are any for such rows."""
    if capability != (9, 0) or not is_there():
        return False
    try:
        core.cuda_cubin(capability, dims, dtype, tf32, wgmma=True)
    except ValueError:  # not for such rows
        return False
    return True


if __name__ == "__main__":
    from gpu.records import emit

    emit("note", text=f"this extension does not read {SETTING}: there are no kernels for sm_90a")
