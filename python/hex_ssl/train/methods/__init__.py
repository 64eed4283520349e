"""Self-supervised methods as LightningModules, one file each, on one base.

`METHODS` lists them by name, `method_class` returns a method's class, and `build_method` builds the method of a
configuration. Each class is in the module of its name, such as `hex_ssl.train.methods.nnclr.NNCLR`.
"""

from typing import TYPE_CHECKING

from hex_ssl._on_demand import on_demand
from hex_ssl.train.methods.settings import METHODS as METHODS
from hex_ssl.train.methods.settings import MethodSettings as MethodSettings

if TYPE_CHECKING:
    from hex_ssl.train.methods._names import Method as Method
    from hex_ssl.train.methods._names import build_hex_loss as build_hex_loss
    from hex_ssl.train.methods._names import build_loss as build_loss
    from hex_ssl.train.methods._names import build_method as build_method
    from hex_ssl.train.methods._names import build_threshold as build_threshold
    from hex_ssl.train.methods._names import method_class as method_class
else:
    __getattr__ = on_demand(
        __name__, ("Method", "build_hex_loss", "build_loss", "build_method", "build_threshold", "method_class")
    )
