"""Paths in settings, read as a shell reads them, wherever they were written."""

import os
import re
from typing import Any

UNSET = re.compile(r"\$(\w+|\{[^}]*\})")
"""A variable in a path; after the expansion, one that is not set."""


def expand_path(name: str, path: str) -> str:
    """A path with `~`, `~user`, `$NAME` and `${NAME}` replaced.

    A shell replaces them only at the start of a word and never in a YAML file: without this, `--run.root=~/runs` would
    make a folder that is called "~".

    Args:
        name: The setting, for errors.
        path: Its value.

    Returns:
        The path; relative ones stay relative.

    Raises:
        ValueError: The user or a variable is unknown.

    Example:
        >>> expand_path("data.root", "~/images") == os.path.expanduser("~") + "/images"
        True
        >>> expand_path("data.root", "$NOWHERE/images")
        Traceback (most recent call last):
        ValueError: expected `data.root` to name environment variables that are set, but got $NOWHERE in $NOWHERE/images
    """
    expanded = os.path.expandvars(path)
    if unset := UNSET.search(expanded):
        raise ValueError(f"expected `{name}` to name environment variables that are set, but got {unset[0]} in {path}")
    expanded = os.path.expanduser(expanded)
    if expanded.startswith("~"):
        raise ValueError(
            f"expected `{name}` to begin with a user's name after the ~, but got {path} (./~... is a path)"
        )
    return expanded


def expand_paths(settings: Any, *names: str, group: str = "") -> None:
    """Expands paths of a dataclass, a frozen one too, as :func:`expand_path` does.

    Args:
        settings: The dataclass.
        *names: Its settings that are paths, None, or lists of paths.
        group: What stands before the names in errors, such as "run.".

    Raises:
        ValueError: See `expand_path`.
    """
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str):
            value = expand_path(f"{group}{name}", value)
        elif value is not None:
            value = [expand_path(f"{group}{name}", each) for each in value]
        object.__setattr__(settings, name, value)
