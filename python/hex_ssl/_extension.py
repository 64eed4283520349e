"""Loads the Rust extension, after the checks that make a failure readable. The only place that does."""

from importlib.util import find_spec

import torch

from hex_ssl._torch_version import TORCH_VERSION, check_torch_version

_REBUILD = "in a checkout, run: maturin develop --release"

# Before the loader looks for libtorch's symbols: its own message would help nobody.
check_torch_version(torch.__version__)
if find_spec("hex_ssl._core") is None:
    raise ImportError(f"hex_ssl's extension `hex_ssl._core` is not built; {_REBUILD}")
else:
    from hex_ssl import _core as _core

if _core.TORCH_VERSION != TORCH_VERSION:
    raise ImportError(
        f"hex_ssl's extension was built for torch {_core.TORCH_VERSION}, but hex_ssl is for {TORCH_VERSION}; {_REBUILD}"
    )
