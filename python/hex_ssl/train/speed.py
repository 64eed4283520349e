"""How fast a run goes on this machine: what `auto` stands for, and the compiling of its networks."""

import importlib.util
import os
import shutil
from dataclasses import replace
from typing import Any

import torch

from hex_ssl.momentum import MomentumEncoder
from hex_ssl.train.config import Config, RunConfig
from hex_ssl.train.data import PretrainData
from hex_ssl.train.methods import Method

AUTO = "auto"

BACKEND = "inductor"
"""torch.compile's."""


def without_auto(config: Config, earlier: Config | None = None) -> Config:
    """The configuration with what `auto` stands for on this machine.

    On a GPU that is bf16-mixed (16-mixed where it has no bfloat16), channels last, and compiled networks where Triton
    and a C compiler are there; on anything else 32-true, channels first, and nothing compiled.

    Args:
        config: The run.
        earlier: The run as it was begun, to be resumed: what is "auto" now is what it was then.

    Example:
        >>> run = RunConfig(accelerator="cpu", precision="auto", channels_last="auto", compile="auto")
        >>> found = without_auto(Config(run=run)).run
        >>> found.precision, found.channels_last, found.compile
        ('32-true', False, False)
    """
    found: dict[str, Any] = _for_device(uses_gpu(config.run))
    if earlier is not None:
        found |= {name: getattr(earlier.run, name) for name in found if getattr(earlier.run, name) != AUTO}
    chosen = {name: value for name, value in found.items() if getattr(config.run, name) == AUTO}
    return replace(config, run=replace(config.run, **chosen))


def uses_gpu(run: RunConfig) -> bool:
    """Whether a run is to train on a GPU."""
    return run.accelerator in ("gpu", "cuda") or (run.accelerator == AUTO and torch.cuda.is_available())


def _for_device(on_gpu: bool) -> dict[str, Any]:
    if not on_gpu or not torch.cuda.is_available():  # where there is none, the trainer says so
        return {"precision": "32-true", "channels_last": False, "compile": False}
    half = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return {"precision": half, "channels_last": True, "compile": _can_compile()}


def _can_compile() -> bool:
    """Whether torch.compile can make kernels for the GPU: Triton wants compute capability 7.0 and a C compiler."""
    compiler = any(shutil.which(each) for each in (os.environ.get("CC", "cc"), "gcc", "clang"))
    return compiler and importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability() >= (7, 0)


def compile_networks(method: Method, data: PretrainData) -> None:
    """Compiles a method's networks at their first use, and the views that the device makes.

    Each network stays the module that it is, so that checkpoints are the same with and without, and its hooks stay
    outside of what is compiled.

    Args:
        method: Its backbone, its heads and the network that follows them.
        data: Its views.
    """
    for child in method.children():
        network: Any = child.encoder if isinstance(child, MomentumEncoder) else child
        if any(True for _ in network.parameters()):
            network.forward = torch.compile(network.forward, backend=BACKEND, dynamic=False)
    views = getattr(data, "views", None)
    if views is not None:
        views.compile(backend=BACKEND)
