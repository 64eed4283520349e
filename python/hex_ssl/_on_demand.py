"""Packages whose names are imported when the first of them is asked for.

What looks at settings, recipes or cards alone, such as `hex-ssl --help`, then pays for no torch and no Lightning.
"""

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec


def on_demand(package: str, names: Iterable[str]) -> Callable[[str], object]:
    """A package's `__getattr__`, which finds its submodules, and the names that its module `_names` imports.

    Args:
        package: The package's `__name__`.
        names: The names that the package offers. Any other is none: to ask for it imports nothing.

    Returns:
        A function of a name, called for names that the package does not have yet.

    Raises:
        AttributeError: By that function: there is no such name.
        ImportError: By that function: what the names need is missing.

    Example:
        >>> on_demand("hex_ssl.train.data", ["PretrainData"])("PretrainData").__name__
        'PretrainData'
    """
    offered = frozenset(names)

    def find(name: str) -> object:
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        if name not in offered:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(f"{package}._names"), name)
        setattr(sys.modules[package], name, found)
        return found

    return find
