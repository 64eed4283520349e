"""Seeds, threads and backends for every test."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

# Derandomised: a property that fails, fails for everyone and every time.
hypothesis.settings.register_profile(
    "hex_ssl",
    deadline=None,
    max_examples=12,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("hex_ssl")


@pytest.fixture(autouse=True)
def _seed_and_threads() -> Iterator[None]:
    """Start each test from one seed, and leave torch's thread count as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", "composite"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once on the CPU kernel and once on the composite of torch operations."""
    monkeypatch.setenv("HEX_SSL_BACKEND", request.param)
    return str(request.param)
