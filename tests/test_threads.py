"""Several Python threads call together, as data-parallel trainers and servers do; a signal comes during a call."""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier, get_ident
from traceback import walk_stack

import pytest
import torch
from torch import Tensor

from hex_ssl import ops
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
        start.wait(timeout=30)
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


def test_python_runs_meanwhile(backend: str) -> None:
    # The interpreter's lock is released while the loss is computed: this thread is never stopped for half of it.
    z1, z2 = torch.randn(2, 3000, 128)

    def step() -> float:
        torch.set_num_threads(1)
        start = time.perf_counter()
        hex_loss(z1, z2)
        return time.perf_counter() - start

    step()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(step)
        longest, last = 0.0, time.perf_counter()
        while not running.done():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    assert longest < 0.5 * running.result()


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


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("mode", [False, True], ids=["plain", "under a mode"])
def test_interrupt_during_the_call(mode: bool, backend: str) -> None:
    # It is raised as soon as the kernel is done, and gradients are recorded again.
    z1, z2 = torch.randn(2, 2000, 128)
    caller, over = get_ident(), False

    def inside() -> bool:
        return any(frame.f_code is ops._evaluate.__code__ for frame, _ in walk_stack(sys._current_frames()[caller]))

    def interrupt() -> None:
        seen = 0
        while seen < 3 and not over:
            time.sleep(0.005)
            seen = seen + 1 if inside() else 0
        os.kill(os.getpid(), signal.SIGINT)

    # A mode's Python runs at each operation of torch; what is raised in it reaches the caller in a RuntimeError.
    raises = pytest.raises((KeyboardInterrupt, RuntimeError) if mode else KeyboardInterrupt)
    with ThreadPoolExecutor(1) as pool, raises as raised, torch.device("cpu") if mode else nullcontext():
        interrupted = pool.submit(interrupt)
        try:
            hex_loss(z1, z2)
        finally:
            over = True
        interrupted.result()  # where the call has lost it, and where it came too late
    assert raised.traceback[-1].name == "_evaluate"
    assert "KeyboardInterrupt" in repr(raised.value)
    assert torch.is_grad_enabled()
