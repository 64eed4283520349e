"""Packages whose names are imported when the first of them is asked for.

What looks at settings, recipes or cards alone, such as `hex-ssl --help`, then pays for no torch and no Lightning.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec


def on_demand(package: str) -> Callable[[str], object]:
    """A package's `__getattr__`, which finds its submodules, and the public names of its module `_names`.

    Args:
        package: The package's `__name__`.

    Returns:
        A function of a name, called for names that the package does not have yet.

    Raises:
        AttributeError: By that function: there is no such name.
        ImportError: By that function: what the names need is missing.

    Example:
        >>> on_demand("hex_ssl.data")("PretrainData").__name__
        'PretrainData'
    """

    def find(name: str) -> object:
        public = name == "__version__" or not name.startswith("_")
        if public and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        names = import_module(f"{package}._names") if public else None
        if not hasattr(names, name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(names, name)
        setattr(sys.modules[package], name, found)
        return found

    return find
