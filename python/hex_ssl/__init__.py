"""HEX and related contrastive losses for PyTorch, computed by one fused kernel.

    criterion = hex_ssl.HexLoss(temperature=0.1)
    loss = criterion(z1, z2)

`HexLoss`, `NTXentLoss`, `HCLLoss`, `DCLLoss`, `CLIPLoss`, `InfoNCELoss` and `SupConLoss` are modules.
`hex_ssl.functional` has the same losses as functions, and `hex_ssl.thresholds` has the threshold strategies.
`Reduction`, `Formulation` and `ThresholdName` are the types of the arguments that take a name.
`show_config()` prints which backend runs on which device. The package needs only torch and NumPy.
"""

import sys
from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand

# If torch is already imported, a delayed import saves nothing. Problems with torch or the extension are reported now.
if TYPE_CHECKING or "torch" in sys.modules:
    from hex_ssl import functional as functional
    from hex_ssl import thresholds as thresholds
    from hex_ssl._names import (
        CLIPLoss,
        DCLLoss,
        Formulation,
        HCLLoss,
        HexLoss,
        InfoNCELoss,
        NTXentLoss,
        Reduction,
        Statistics,
        SupConLoss,
        ThresholdName,
        hex_loss,
        show_config,
    )
    from hex_ssl._names import __version__ as __version__
__all__ = [
    "CLIPLoss",
    "DCLLoss",
    "Formulation",
    "HCLLoss",
    "HexLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "Reduction",
    "Statistics",
    "SupConLoss",
    "ThresholdName",
    "functional",
    "hex_loss",
    "show_config",
    "thresholds",
]

if not TYPE_CHECKING:
    __getattr__ = on_demand(__name__, (*__all__, "__version__"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
