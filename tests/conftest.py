"""Seeds, threads and backends for every test."""

import gc
import zlib
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch

from .ptx import kernels
from .ptx.emulation import Emulation
from .ptx.interpreter import Schedule

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


def pytest_collection_finish() -> None:
    """What was imported until now stays: the garbage collector need not look at it again and again."""
    gc.freeze()


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


@pytest.fixture(scope="session")
def emulation(pytestconfig: pytest.Config) -> Iterator[Emulation]:
    """The interpreter of the CUDA kernels' PTX. Kept in pytest's cache, by content, as is the PTX."""
    assert pytestconfig.cache is not None
    found = Emulation(pytestconfig.cache.mkdir("ptx"))
    yield found
    found.close()


Emulate = Callable[..., None]


@pytest.fixture
def emulate(emulation: Emulation, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulate]:
    """Run `hex_ssl` on interpreted CUDA kernels: `emulate(dtype, dims)`. Uninitialised memory is NaN meanwhile.

    Each test has a schedule of its own, the same in every run.
    """
    own_schedule = Schedule(seed=zlib.crc32(request.node.nodeid.encode()))

    def choose(
        dtype: torch.dtype,
        dims: int,
        operand: str | None = None,
        *,
        wgmma: bool = False,
        mutation: str | None = None,
        schedule: Schedule = own_schedule,
        launch_rows: int = 0,
    ) -> None:
        operand = operand or kernels.operand_of(dtype)
        emulation.load(operand + kernels.WGMMA if wgmma else operand, kernels.padded(dims), mutation)
        emulation.interpreter.schedule(schedule._replace(launch_rows=launch_rows))
        monkeypatch.setenv("HEX_SSL_BACKEND", "emulated")
        monkeypatch.setenv("HEX_SSL_CUDA_WGMMA", str(int(wgmma)))
        monkeypatch.setenv("HEX_SSL_CUDA_EMULATOR", str(emulation.interpreter.path))

    before = torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    yield choose
    torch.use_deterministic_algorithms(before)
