"""Several Python threads call at once, as in data-parallel trainers and servers; a signal arrives during a call."""

import gc
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier, get_ident
from traceback import walk_stack
from typing import Any

import pytest
import torch
from torch import Tensor

from hex_ssl import _core
from hex_ssl.functional import hex_loss

from .batches import clustered


def loss_and_gradient(z: Tensor) -> tuple[Tensor, Tensor]:
    """One step."""
    z = z.clone().requires_grad_()
    loss = hex_loss(*z.chunk(2))
    loss.backward()
    assert z.grad is not None
    return loss.detach(), z.grad


def test_threads_get_what_each_would_get_alone(backend: str) -> None:
    batches = [clustered(40 + 30 * i, 2, 16, torch.Generator().manual_seed(i)).float() for i in range(6)]
    alone = [loss_and_gradient(z) for z in batches]
    start = Barrier(len(batches))

    def together(index: int) -> list[tuple[Tensor, Tensor]]:
        # torch's thread count is each thread's own; with another one the sums would round differently.
        torch.set_num_threads(2)
        start.wait()
        return [loss_and_gradient(batches[index]) for _ in range(10)]

    with ThreadPoolExecutor(len(batches)) as pool:
        for repeated, (loss, gradient) in zip(pool.map(together, range(len(batches))), alone, strict=True):
            for ours, ours_gradient in repeated:
                torch.testing.assert_close(ours, loss, rtol=1e-6, atol=0)
                torch.testing.assert_close(ours_gradient, gradient, rtol=1e-4, atol=1e-8)


def test_errors_reach_the_thread_that_made_them(backend: str) -> None:
    def step(index: int) -> str:
        z1, z2 = torch.randn(2, 50, 8)
        if index % 2:
            z2[index] = 0.0
            with pytest.raises(ValueError, match=f"row {index} of `z2` is all zeros"):
                hex_loss(z1, z2)
            return "refused"
        return "finite" if hex_loss(z1, z2).isfinite() else "not finite"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(step, range(40))) == ["finite", "refused"] * 20


@pytest.fixture
def _lock_is_kept() -> Iterator[None]:
    """No thread has to give the interpreter's lock away: it does so where it waits, and in native code that lets go."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600.0)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_lock_is_kept")
def test_python_runs_meanwhile(backend: str) -> None:
    # The interpreter's lock is released while the loss is computed: that thread works on while this one has the lock.
    # Seconds are those that a thread had of a processor, on however busy a machine.
    z1, z2 = torch.randn(2, 1000, 128)
    over = False

    def seconds_of_a_step() -> float:
        torch.set_num_threads(1)
        start = time.thread_time()
        hex_loss(z1, z2)
        return time.thread_time() - start

    def steps() -> None:
        for _ in range(100):
            if not over:
                seconds_of_a_step()

    with ThreadPoolExecutor(1) as pool:
        clock = time.pthread_getcpuclockid(pool.submit(get_ident).result())
        pool.submit(seconds_of_a_step).result()
        enough, meanwhile = 0.03 * pool.submit(seconds_of_a_step).result(), 0.0
        running = pool.submit(steps)
        while meanwhile < enough and not running.done():
            time.sleep(0.0001)  # gives the lock away
            before, end = time.clock_gettime(clock), time.thread_time() + 4 * enough
            while time.thread_time() < end:
                pass
            meanwhile = time.clock_gettime(clock) - before
        over = True
    assert meanwhile >= enough


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """SIGINT is KeyboardInterrupt, in a background job too, and nothing else takes it, as what the collector calls
    of earlier tests' garbage would."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible", "_lock_is_kept")
@pytest.mark.parametrize("mode", [False, True], ids=["plain", "under a mode"])
def test_interrupt_during_the_call(mode: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # It is raised as soon as the kernel is done, and gradients are recorded again. (Torch's operations are Python's own
    # to interrupt.)
    z1, z2 = torch.randn(2, 500, 128)
    caller, native = get_ident(), _core.evaluate

    def evaluate(*arguments: Any) -> Any:
        return native(*arguments)

    def interrupt() -> None:
        # Where this thread has the lock and the caller is in `evaluate`, native code has let go of it, and can return
        # only when this thread lets go: the signal comes during the call, however short it is.
        inside = False
        while not inside:
            time.sleep(0.0001)
            inside = any(frame.f_code is evaluate.__code__ for frame, _ in walk_stack(sys._current_frames()[caller]))
        signal.pthread_kill(get_ident(), signal.SIGINT)

    monkeypatch.setattr(_core, "evaluate", evaluate)
    # A mode's Python runs at each operation of torch; what is raised in it reaches the caller in a RuntimeError.
    raises = pytest.raises((KeyboardInterrupt, RuntimeError) if mode else KeyboardInterrupt)
    with ThreadPoolExecutor(1) as pool, raises as raised, torch.device("cpu") if mode else nullcontext():
        interrupted = pool.submit(interrupt)
        while not interrupted.done():
            hex_loss(z1, z2)
    assert raised.traceback[-1].name == "evaluate"
    assert "KeyboardInterrupt" in repr(raised.value)
    assert torch.is_grad_enabled()
