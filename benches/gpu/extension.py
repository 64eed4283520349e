"""Another build of the extension, beside the one that is installed or in its place."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any
from unittest.mock import patch

NAME = "hex_ssl._core"
INSTEAD = "GPU_CHECK_EXTENSION"
"""Variable with the file of an extension that takes the place of the installed one."""


def load(path: Path) -> ModuleType:
    """An extension from a file. Two files are two extensions, with nothing in common."""
    loader = ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def take_the_place() -> None:
    """Loads the extension that the variable names, if it is set. To be called before hex_ssl is imported."""
    path = os.environ.get(INSTEAD)
    if path:
        import torch  # noqa: F401 -- the extension finds libraries that torch has loaded

        sys.modules[NAME] = load(Path(path))


def nothing(scratch: Any) -> None:
    """Looks at no scratch memory."""


class Watched:
    """An extension whose evaluations are counted, and whose last scratch memory is kept.

    Args:
        core: The extension.
        after: Called after each evaluation, with its scratch memory.
    """

    def __init__(self, core: ModuleType, after: Callable[[Any], None] = nothing) -> None:
        self.core, self.after, self.calls = core, after, 0
        self.scratch: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def evaluate(self, call: Any, outputs: Any, scratch: Callable[[int], Any], *others: Any) -> Any:
        """As the extension's."""

        def kept(size: int) -> Any:
            self.scratch = scratch(size)
            return self.scratch

        self.calls += 1
        found = self.core.evaluate(call, outputs, kept, *others)
        self.after(self.scratch)
        return found


@contextmanager
def used(
    core: ModuleType,
    environment: Mapping[str, str] = MappingProxyType({}),
    after: Callable[[Any], None] = nothing,
) -> Iterator[Watched]:
    """hex_ssl computes by `core` for a while, with these variables set. `after` is called as of `Watched`.

    Raises:
        RuntimeError: It did not.
    """
    from hex_ssl import direct, dispatch

    watched = Watched(core, after)
    modules = [patch.object(module, "_core", watched) for module in (direct, dispatch)]
    with modules[0], modules[1], patch.dict(os.environ, environment):
        yield watched
    if not watched.calls:
        raise RuntimeError("expected another extension to compute, but the installed one did")
