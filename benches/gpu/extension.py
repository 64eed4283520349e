"""Another build of the extension, beside the one that is installed or in its place."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

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


class _Counted:
    """An extension whose evaluations are counted."""

    def __init__(self, core: ModuleType) -> None:
        self.core, self.calls = core, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def evaluate(self, *arguments: Any) -> Any:
        """As the extension's."""
        self.calls += 1
        return self.core.evaluate(*arguments)


@contextmanager
def used(core: ModuleType, environment: Mapping[str, str]) -> Iterator[None]:
    """hex_ssl computes by `core` for a while, with these variables set.

    Raises:
        RuntimeError: It did not.
    """
    from hex_ssl import dispatch

    before, counted = dispatch._core, _Counted(core)
    variables = {name: os.environ.get(name) for name in environment}
    dispatch._core = counted  # type: ignore[assignment]
    os.environ.update(environment)
    try:
        yield
    finally:
        dispatch._core = before
        for name, value in variables.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    if not counted.calls:
        raise RuntimeError("expected the variant to compute, but the installed extension did")
