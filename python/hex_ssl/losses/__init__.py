"""The losses as modules: settings, the epoch, and the statistics of the last forward. The mathematics is in
:mod:`hex_ssl.functional`."""

from hex_ssl.losses.dcl import DCLLoss as DCLLoss
from hex_ssl.losses.hcl import HCLLoss as HCLLoss
from hex_ssl.losses.hex import HexLoss as HexLoss
from hex_ssl.losses.ntxent import NTXentLoss as NTXentLoss

__all__ = ["DCLLoss", "HCLLoss", "HexLoss", "NTXentLoss"]
