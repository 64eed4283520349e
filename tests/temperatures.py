"""Losses with a temperature that is a tensor: one step of each, compared with the CPU kernel in float64."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hex_ssl import functional
from hex_ssl.thresholds import FixedThreshold

from .batches import gapped
from .compare import GRADIENT_ERROR, LOSS_ERROR

Loss = Callable[..., Tensor]


class Step(NamedTuple):
    """The loss, and the gradients for the rows and for the temperature."""

    loss: Tensor
    rows: Tensor
    temperature: Tensor


def step(loss: Loss, z: Tensor, temperature: Tensor, weights: Tensor | None = None) -> Step:
    """Forward and backward of `loss(*z.chunk(2), temperature=...)`."""
    rows, learned = z.detach().requires_grad_(), temperature.detach().requires_grad_()
    found = loss(*rows.chunk(2), temperature=learned)
    by_rows, by_temperature = torch.autograd.grad(
        found if weights is None else (found * weights).sum(), [rows, learned]
    )
    return Step(found.detach(), by_rows, by_temperature)


def exact(loss: Loss, z: Tensor, temperature: Tensor, weights: Tensor | None = None) -> Step:
    """The same by the CPU kernel in float64, which `test_temperature.py` compares with central differences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEX_SSL_BACKEND", "cpu")
        return step(loss, z.double(), temperature.double(), None if weights is None else weights.double())


def assert_close(found: Step, expected: Step, temperature: float, dtype: torch.dtype) -> None:
    """Each is right to its dtype's rounding, as in `compare.py`."""
    sharp = max(1.0, 0.1 / temperature)
    error = LOSS_ERROR[dtype] * sharp
    torch.testing.assert_close(found.loss.double(), expected.loss, rtol=error, atol=error)
    error = GRADIENT_ERROR[dtype] * sharp
    assert (found.rows.double() - expected.rows).norm() <= error * expected.rows.norm()
    torch.testing.assert_close(found.temperature.double(), expected.temperature.double(), rtol=error, atol=error)


COSINE, ALL = (FixedThreshold(value, scale="cosine") for value in (0.7, -math.inf))


def with_queue(z1: Tensor, z2: Tensor, **more: Any) -> Tensor:
    queue = gapped(50, 1, 64, torch.Generator().manual_seed(5)).to(z1)
    return functional.hex_loss_with_keys(z1, queue, positives=z2, threshold=COSINE, **more)


LOSSES: dict[str, Loss] = {
    # All negatives are hierarchical. The anchors whose positive is near are at the floor, the others are not.
    "floor": lambda *z, **more: functional.hex_loss(*z, beta=0.0, tau_plus=0.5, threshold=ALL, **more),
    "hex": lambda *z, **more: functional.hex_loss(*z, threshold=COSINE, **more),
    "official": lambda *z, **more: functional.hex_loss(*z, formulation="official", threshold=COSINE, **more),
    "elimination": lambda *z, **more: functional.hex_loss(*z, formulation="elimination", threshold=COSINE, **more),
    "queue": with_queue,
    "ntxent": functional.ntxent_loss,
    "infonce": functional.infonce_loss,
    "clip": functional.clip_loss,
    "supcon": lambda *z, **more: functional.supcon_loss(
        *z, labels=torch.arange(len(z[0]), device=z[0].device) // 5, **more
    ),
}
