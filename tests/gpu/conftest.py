"""Every test here runs on the CUDA kernels, and fails if they cannot run. No test falls back silently."""

import pytest

from . import BACKEND


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEX_SSL_BACKEND", BACKEND)
