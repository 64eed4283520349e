"""Batches on the device, one step of the loss on them, and the difference of two steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hex_ssl import functional

from . import DEVICE

TEMPERATURE = 0.2
TOLERANCES = {
    torch.float32: (1e-5, 1e-6, 2e-3),
    torch.bfloat16: (1e-4, 1e-5, 1e-2),
    torch.float16: (1e-4, 1e-5, 5e-3),
}
"""Of the loss, relative; of the threshold, absolute; of the gradient, relative to its norm."""


class Step(NamedTuple):
    """What one forward and backward leaves."""

    loss: Tensor
    threshold: Tensor
    gradient: Tensor


def batch(rows: int, dims: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Both views of rows / 2 samples around 100 centres, [rows, dims], on the device; the same on any device."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(100, dims, generator=generator)[torch.arange(rows // 2) % 100].repeat(2, 1)
    return (centres + 1.5 * torch.randn(rows // 2 * 2, dims, generator=generator)).to(DEVICE, dtype)


def step(z: Tensor, **settings: Any) -> Step:
    """Loss, threshold and gradient of the two views stacked in `z`."""
    leaf = z.detach().requires_grad_()
    settings = {"temperature": TEMPERATURE, **settings}
    loss, statistics = functional.hex_loss(*leaf.chunk(2), return_statistics=True, **settings)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return Step(loss.detach(), statistics.threshold, gradient)


def requested_bytes(run: Callable[[], object]) -> int:
    """The most bytes of device memory that a call requests at once, above those before it.

    Not what torch's allocator gives: that may be up to 1 MiB more for each large block.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before: int = torch.cuda.memory_stats()["requested_bytes.all.current"]
    run()
    torch.cuda.synchronize()
    peak: int = torch.cuda.memory_stats()["requested_bytes.all.peak"]
    return peak - before


def assert_same_bits(found: Step, expected: Step) -> None:
    """Every number of one step is that of the other."""
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def assert_close(found: Step, expected: Step, dtype: torch.dtype) -> None:
    """Close as two computations are whose similarities differ by their rounding.

    Of a few rows a similarity next to the threshold falls on the other side: the gradient is compared as a whole.
    """
    loss, threshold, gradient = TOLERANCES[dtype]
    torch.testing.assert_close(found.loss.cpu(), expected.loss.cpu(), rtol=loss, atol=0)
    torch.testing.assert_close(found.threshold.cpu(), expected.threshold.cpu(), rtol=0, atol=threshold)
    ours, theirs = found.gradient.double().cpu(), expected.gradient.double().cpu()
    off = (ours - theirs).norm() / theirs.norm()
    assert off < gradient, f"the gradient is off by {off:.1e}"
