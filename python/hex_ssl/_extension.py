"""Loads the Rust extension, after checks that give clear errors. All other modules import it from here."""

from importlib.util import find_spec

import torch

from hex_ssl._torch_version import check_torch_version

_REBUILD = "in a checkout, run: maturin develop --release"

check_torch_version(torch.__version__)
if find_spec("hex_ssl._core") is None:
    raise ImportError(f"hex_ssl's extension `hex_ssl._core` is not built; {_REBUILD}")

try:
    from hex_ssl import _core as _core
except ImportError as error:
    # Only an extension that is linked against libtorch depends on one release of torch.
    raise ImportError(
        f"hex_ssl's extension `hex_ssl._core` was built for another torch than the installed {torch.__version__} "
        f"({error}); {_REBUILD}"
    ) from error

check_torch_version(torch.__version__, _core.TORCH_VERSION)
