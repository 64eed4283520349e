"""Every test here runs on the kernels, and fails where these cannot: nothing falls back unseen."""

import pytest

from . import BACKEND


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEX_SSL_BACKEND", BACKEND)
