"""The run that is never interrupted, for comparison."""

import time
from pathlib import Path

import pytest

from . import runs


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of the run, and its duration in seconds."""
    root = tmp_path_factory.mktemp("undisturbed")
    runs.start(print).join()  # the first start of all imports everything
    begin = time.monotonic()
    process = runs.start(runs.train, runs.tiny(root))
    process.join(timeout=runs.HANG)
    assert process.exitcode == 0
    return root / "run", time.monotonic() - begin
