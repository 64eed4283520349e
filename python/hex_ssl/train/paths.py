"""Expansion of paths in settings, as a shell does it, also for paths in files."""

import os
import re
from typing import Any

UNSET = re.compile(r"\$(\w+|\{[^}]*\})")
"""A variable in a path. After the expansion, a match is a variable that is not set."""


def expand_path(name: str, path: str) -> str:
    """A path with `~`, `~user`, `$NAME` and `${NAME}` replaced.

    A shell replaces `~` only at the start of a word, and replaces nothing in a YAML file. Without this function,
    `--run.root=~/runs` would make a folder named "~".

    Args:
        name: The setting, for errors.
        path: Its value.

    Returns:
        The path. A relative path stays relative.

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
    """Expands paths of a dataclass in place, as :func:`expand_path` does. The dataclass may be frozen.

    Args:
        settings: The dataclass.
        *names: Names of the settings to expand. Each is a path, a list of paths, or None.
        group: Prefix of the names in errors, such as "run.".

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
