"""Code of the user's that a setting names: "module:name"."""

import importlib
import os
import sys
from typing import Any


def import_own(setting: str, reference: str, form: str) -> Any:
    """What a setting names, such as "my_module:MyMethod".

    The module is one that is installed, or a file in the current folder. Installed modules come first, so that no file
    there hides one of them. Importing runs the module: a file of somebody else's must not decide what is imported.

    Args:
        setting: The setting's name, for the error.
        reference: The module and the name in it.
        form: What the setting holds, for the error.

    Raises:
        ValueError: There is no such module, or no such name in it.

    Example:
        >>> import_own("backbone.name", "math:sqrt", "module:function")(9)
        3.0
    """
    module, _, name = reference.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f'expected `{setting}` to be an importable "{form}", but got "{reference}": {error}'
        ) from error
