"""Many calls: memory that does not grow, threads that do not disturb each other."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import Tensor

from hex_ssl import HexLoss

from . import runs

STEPS = 100_000 if runs.MOMENTS else 10_000
GROWTH = 2**20
"""Bytes that are no growth: 100,000 steps that each left 16 bytes would leave more."""


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def step(criterion: HexLoss, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    loss = criterion(*z.chunk(2))
    loss.backward()
    assert z.grad is not None
    return loss.detach(), z.grad


def step_often(steps: int) -> None:
    criterion, z = HexLoss(), torch.randn(32, 16)
    for _ in range(2_000):
        step(criterion, z)
    before = resident()
    for _ in range(steps):
        step(criterion, z)
    grown = resident() - before
    print(f"{steps} steps: {grown} bytes more")
    assert grown < GROWTH, f"{grown} bytes more after {steps} steps"


@pytest.mark.timeout(1200)
def test_memory_does_not_grow() -> None:
    assert runs.end_of(step_often, STEPS, seconds=1000.0) == ""


def test_eight_threads_get_what_one_gets() -> None:
    batches = [torch.randn(32 + 8 * index, 16, generator=torch.Generator().manual_seed(index)) for index in range(8)]
    torch.set_num_threads(1)
    alone = [step(HexLoss(), z) for z in batches]
    together = Barrier(len(batches))

    def steps(index: int) -> list[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)  # each thread's own
        criterion = HexLoss()
        together.wait(timeout=60)
        return [step(criterion, batches[index]) for _ in range(50)]

    with ThreadPoolExecutor(len(batches)) as pool:
        for found, (loss, gradient) in zip(pool.map(steps, range(len(batches))), alone, strict=True):
            assert all(torch.equal(each, loss) and torch.equal(own, gradient) for each, own in found)
