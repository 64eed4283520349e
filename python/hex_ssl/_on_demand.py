"""Lazy imports: a package imports its public names when one of them is first used.

Code that reads only settings, recipes or cards, such as `hex-ssl --help`, then does not import torch and Lightning.
"""

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec


def on_demand(package: str, names: Iterable[str]) -> Callable[[str], object]:
    """Makes a package's `__getattr__`, which finds its submodules and the names that its module `_names` imports.

    Args:
        package: The package's `__name__`.
        names: The public names of the package. A request for any other name does not import `_names`.

    Returns:
        A function that takes a name. Python calls it for names that the package does not have yet.

    Raises:
        AttributeError: The returned function raises it if there is no such name.
        ImportError: The returned function raises it if a dependency of the names is missing.

    Example:
        >>> on_demand("hex_ssl.train.data", ["PretrainData"])("PretrainData").__name__
        'PretrainData'
    """
    offered = frozenset(names)

    def find(name: str) -> object:
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        if name not in offered:
            # With the name and the module, Python suggests the nearest name.
            text = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=sys.modules[package])
        found: object = getattr(import_module(f"{package}._names"), name)
        setattr(sys.modules[package], name, found)
        return found

    return find
