"""Many calls: memory does not grow, and threads do not disturb each other."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import Tensor

from hex_ssl import HexLoss

from . import runs

STEPS = int(os.environ.get("HEX_SSL_FAULT_STEPS", "100000"))
GROWTH = 2**20
"""Tolerated growth in bytes. Leaking 16 bytes in each of 100,000 steps, or a tensor in each of 10,000, exceeds it."""


def resident() -> int:
    """The resident memory of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def step(criterion: HexLoss, z: Tensor, loss_of: Callable[[HexLoss, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    loss = loss_of(criterion, z)
    loss.backward()
    assert z.grad is not None
    return loss.detach(), z.grad


def of_two_views(criterion: HexLoss, z: Tensor) -> Tensor:
    return criterion(*z.chunk(2))


def with_labels(criterion: HexLoss, z: Tensor) -> Tensor:
    return criterion(*z.chunk(2), labels=torch.arange(len(z) // 2) % 4)


def against_keys(criterion: HexLoss, z: Tensor) -> Tensor:
    queries, positives = z.chunk(2)
    return criterion.against_keys(queries, z.detach().flip(1), positives=positives)


@dataclass(frozen=True)
class Variant:
    """The call of each step."""

    loss_of: Callable[[HexLoss, Tensor], Tensor] = of_two_views
    threshold: str = "adaptive"
    dtype: torch.dtype = torch.float32
    backend: str = "cpu"

    def step_often(self, steps: int) -> None:
        os.environ["HEX_SSL_BACKEND"] = self.backend
        criterion, z = HexLoss(threshold=self.threshold), torch.randn(32, 16).to(self.dtype)
        for _ in range(2_000):
            step(criterion, z, self.loss_of)
        before = resident()
        for _ in range(steps):
            step(criterion, z, self.loss_of)
        grown = resident() - before
        print(f"{steps} steps: {grown} bytes more")
        assert grown < GROWTH, f"{grown} bytes more after {steps} steps"


VARIANTS = {
    "bfloat16": Variant(dtype=torch.bfloat16),
    "labels": Variant(with_labels, threshold="supervised"),
    "keys": Variant(against_keys),
    "composite": Variant(backend="composite"),
}


def test_memory_does_not_grow() -> None:
    assert runs.end_of(Variant().step_often, STEPS) == ""


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_memory_of_variants_does_not_grow(variant: Variant) -> None:
    assert runs.end_of(variant.step_often, STEPS // 10) == ""


def test_eight_threads_get_what_one_gets() -> None:
    batches = [torch.randn(32 + 8 * index, 16, generator=torch.Generator().manual_seed(index)) for index in range(8)]
    torch.set_num_threads(1)
    alone = [step(HexLoss(), z, of_two_views) for z in batches]
    together = Barrier(len(batches))

    def steps(index: int) -> list[tuple[Tensor, Tensor]]:
        torch.set_num_threads(1)  # each thread's own
        criterion = HexLoss()
        together.wait()
        return [step(criterion, batches[index], of_two_views) for _ in range(50)]

    with ThreadPoolExecutor(len(batches)) as pool:
        for found, (loss, gradient) in zip(pool.map(steps, range(len(batches))), alone, strict=True):
            assert all(torch.equal(each, loss) and torch.equal(own, gradient) for each, own in found)
