"""The kernels for sm_90a: one place that knows how they are asked for, and whether this extension has them."""

from importlib.util import find_spec
from pathlib import Path

SETTING = "HEX_SSL_CUDA_WGMMA"


def is_there() -> bool:
    """Whether the extension reads the setting: its name is in the machine code then."""
    spec = find_spec("hex_ssl._core")
    return spec is not None and SETTING.encode() in Path(str(spec.origin)).read_bytes()


def settings() -> list[dict[str, str]]:
    """The environments in which the extension may run other kernels."""
    return [{SETTING: "0"}, {SETTING: "1"}] if is_there() else [{}]


if __name__ == "__main__":
    from gpu.records import emit

    emit("note", text=f"this extension does not read {SETTING}: there are no kernels for sm_90a")
