"""Resolves settings that are "auto", and compiles the networks of a run."""

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

GRAPHS = "graphs"
"""The value of `run.compile` that adds CUDA graphs."""

BACKEND = "inductor"
"""The backend of torch.compile."""


def without_auto(config: Config, earlier: Config | None = None) -> Config:
    """The configuration with the values that "auto" stands for on this machine.

    On a GPU these are bf16-mixed (16-mixed without bfloat16), channels last, and compiled networks if Triton and a C
    compiler are available. On other devices they are 32-true, channels first, and no compilation.

    Args:
        config: The run.
        earlier: Configuration of the run to be resumed. Settings that are "auto" get its values.

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
    """Whether the configuration asks for a GPU, or "auto" finds one."""
    return run.accelerator in ("gpu", "cuda") or (run.accelerator == AUTO and torch.cuda.is_available())


def _for_device(on_gpu: bool) -> dict[str, Any]:
    if not on_gpu or not torch.cuda.is_available():  # without a GPU, the trainer raises the error
        return {"precision": "32-true", "channels_last": False, "compile": False}
    half = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return {"precision": half, "channels_last": True, "compile": _can_compile()}


def _can_compile() -> bool:
    """Whether torch.compile can compile for the GPU: Triton needs compute capability 7.0 and a C compiler."""
    compiler = any(shutil.which(each) for each in (os.environ.get("CC", "cc"), "gcc", "clang"))
    return compiler and importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability() >= (7, 0)


def compile_networks(method: Method, data: PretrainData, run: RunConfig) -> None:
    """Compiles the networks of a method, and the views that are made on the device. They are compiled on first use.

    Only the `forward` of each network is compiled. The modules stay the same, so checkpoints do not depend on
    compilation, and hooks are not compiled.

    Args:
        method: The method. Its backbone, heads and momentum encoder are compiled.
        data: The data module. Its `views` are compiled.
        run: The run. Its `compile` is true or "graphs".

    Raises:
        ValueError: `run.compile` is "graphs" without a GPU, or with a virtual batch size.
    """
    options: dict[str, Any] = {"backend": BACKEND}
    if run.compile == GRAPHS:
        _check_graphs(run)
        options["mode"] = "reduce-overhead"
    for child in method.children():
        network: Any = child.encoder if isinstance(child, MomentumEncoder) else child
        if any(True for _ in network.parameters()):
            network.forward = torch.compile(network.forward, dynamic=False, **options)
    views = getattr(data, "views", None)
    if views is not None:
        views.compile(**options)


def _check_graphs(run: RunConfig) -> None:
    if not (uses_gpu(run) and torch.cuda.is_available()):
        raise ValueError('expected `run.compile` to be true, false or "auto" without a GPU, but got "graphs"')
    if run.virtual_batch_size is not None:
        # Each part of a virtual batch would overwrite the embeddings of the previous part.
        raise ValueError(
            f'expected no `run.virtual_batch_size` with `run.compile` "graphs", but got {run.virtual_batch_size}'
        )
