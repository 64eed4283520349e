"""Imports the user's own code that a setting names: "module:name"."""

import importlib
import os
import sys
from typing import Any


def import_own(setting: str, reference: str, form: str) -> Any:
    """Imports the object that a setting names, such as "my_module:MyMethod".

    The module is installed, or a file in the current folder. Installed modules have priority, so that no file hides
    them. Importing runs the code of the module, so `reference` must not come from someone else's file.

    Args:
        setting: Name of the setting, for errors.
        reference: The module and the name of the object in it.
        form: Form of the setting, for errors, such as "module:function".

    Returns:
        The object.

    Raises:
        ValueError: The module does not exist, or does not have the name.

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
