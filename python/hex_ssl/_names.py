"""The public names of `hex_ssl`. This module imports torch and the extension."""

import os

import torch

from hex_ssl._extension import _core
from hex_ssl._torch_version import OLDEST_TORCH
from hex_ssl.choices import Formulation as Formulation
from hex_ssl.choices import Reduction as Reduction
from hex_ssl.choices import ThresholdName as ThresholdName
from hex_ssl.dispatch import backend as _backend
from hex_ssl.dispatch import fallbacks as _fallbacks
from hex_ssl.functional import hex_loss as hex_loss
from hex_ssl.losses import CLIPLoss as CLIPLoss
from hex_ssl.losses import DCLLoss as DCLLoss
from hex_ssl.losses import HCLLoss as HCLLoss
from hex_ssl.losses import HexLoss as HexLoss
from hex_ssl.losses import InfoNCELoss as InfoNCELoss
from hex_ssl.losses import NTXentLoss as NTXentLoss
from hex_ssl.losses import SupConLoss as SupConLoss
from hex_ssl.statistics import Statistics as Statistics

__version__ = _core.__version__


def show_config() -> dict[str, str]:
    """Prints the versions, the border to torch, the threads, the CPU features, and the backend of each device.

    Each backend comes with the reason for its choice. If a device has no fused kernel, the reason names what is
    missing. The reasons why earlier calls fell back to torch's operations are listed too.

    Returns:
        The printed values by name.

    Example:
        >>> import hex_ssl
        >>> config = hex_ssl.show_config()  # doctest: +ELLIPSIS
        hex_ssl: ...
        >>> config["torch"] == torch.__version__
        True
    """
    choice = _backend()
    config = {
        "hex_ssl": __version__,
        "torch": str(torch.__version__),
        "border": f"{_core.BORDER}, for torch {_core.TORCH_VERSION or f'{OLDEST_TORCH} and later'}",
        "threads": str(torch.get_num_threads()),
        "CPU features": torch.backends.cpu.get_cpu_capability(),
        "HEX_SSL_BACKEND": choice if "HEX_SSL_BACKEND" in os.environ else f"{choice} (not set)",
    }
    for device in _devices():
        try:
            name, reason = _core.backend_for(device, "float32", choice)
        except (ValueError, RuntimeError) as error:
            name, reason = "none", str(error)
        config[f"backend on {device}"] = f"{name}: {reason}"
    for number, reason in enumerate(_fallbacks(), 1):
        config[f"fallback {number}"] = reason
    for name, value in config.items():
        print(f"{name}: {value}")
    return config


def _devices() -> list[str]:
    """The CPU, then every GPU. Without a GPU, "cuda" stands in its place, so that the reason is shown."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cuda"]
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ["cpu", *gpus, *([other.type] if other is not None and other.type != "cuda" else [])]
