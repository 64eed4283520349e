"""HEX and the contrastive losses around it, as one fused kernel for PyTorch.

    criterion = hex_ssl.HexLoss(temperature=0.1)
    loss = criterion(z1, z2)

`HexLoss`, `NTXentLoss`, `HCLLoss` and `DCLLoss` are modules, `hex_ssl.functional` the same without state,
`hex_ssl.thresholds` the strategies. `show_config()` tells what runs where. Needs torch and NumPy only.
"""

import sys
from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand

# Where torch is there already, nothing is gained by waiting: what is wrong with it or with the extension is said now.
if TYPE_CHECKING or "torch" in sys.modules:
    from hex_ssl import functional as functional
    from hex_ssl import thresholds as thresholds
    from hex_ssl._names import (
        CLIPLoss,
        DCLLoss,
        HCLLoss,
        HexLoss,
        InfoNCELoss,
        NTXentLoss,
        Statistics,
        SupConLoss,
        hex_loss,
        show_config,
    )
    from hex_ssl._names import __version__ as __version__
__all__ = [
    "CLIPLoss",
    "DCLLoss",
    "HCLLoss",
    "HexLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "Statistics",
    "SupConLoss",
    "functional",
    "hex_loss",
    "show_config",
    "thresholds",
]

if not TYPE_CHECKING:
    __getattr__ = on_demand(__name__, (*__all__, "__version__"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
