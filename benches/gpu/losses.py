"""Step: `python -m gpu.losses ROWS...`: two towers, SupCon, and HEX with a temperature that is a tensor; and losses
without some of the negatives.

Each loss with its gradients, that of the temperature too, against torch's operations in float64 on the same rows, by
the tolerances of `tests/gpu`. Then the time of the former, eager and as a CUDA graph. A graph that reads the
temperature on the host could not be captured.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from gpu.records import REHEARSAL, emit, left
from gpu.workload import DEVICE, DTYPES, captured, clear, milliseconds, peak_bytes, step, views
from hex_ssl import functional
from hex_ssl.thresholds import AdaptiveThreshold, MarginThreshold
from peers import QUANTILE, TAU_PLUS, TEMPERATURE
from tests.gpu.on_device import TOLERANCES

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def clip(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """Both views as towers."""
    return functional.clip_loss(z1, z2, temperature=temperature)


def supcon(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """Both views, with 100 classes."""
    labels = torch.arange(len(z1), device=z1.device) % 100
    return functional.supcon_loss(z1, z2, labels=labels, temperature=temperature)


def hex_learned(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """HEX as the peers compute it."""
    threshold = AdaptiveThreshold(QUANTILE)
    return functional.hex_loss(z1, z2, temperature=temperature, threshold=threshold, tau_plus=TAU_PLUS)


def eliminated(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """Without the negatives above the adaptive threshold."""
    threshold = AdaptiveThreshold(QUANTILE)
    return functional.hex_loss(z1, z2, temperature=temperature, threshold=threshold, formulation="elimination")


def within_margin(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """Without the negatives that are closer than the positive."""
    return functional.hex_loss(z1, z2, temperature=temperature, threshold=MarginThreshold(), formulation="elimination")


def listed(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """Rows of one view against the other, without 16 that each lists."""
    rows = torch.arange(len(z1), device=z1.device)
    ignored = (rows[:, None] + rows[1:17]) % len(z1)
    return functional.infonce_loss(z1, z2, ignored_index=ignored, temperature=temperature)


def with_own(z1: Tensor, z2: Tensor, temperature: Tensor) -> Tensor:
    """Rows of one view against the other, and against four negatives of their own."""
    own = torch.stack([z2.roll(shift, 0) for shift in range(1, 5)], 1)
    return functional.infonce_loss(z1, z2, own_negatives=own, temperature=temperature)


TIMED: dict[str, Loss] = {"clip_loss": clip, "supcon_loss": supcon, "hex_loss": hex_learned}
LOSSES = TIMED | {"elimination": eliminated, "margin": within_margin, "lists": listed, "own negatives": with_own}


def evaluated(loss: Loss, *inputs: Tensor) -> list[Tensor]:
    """The loss, the gradient for all rows, and the derivative by the temperature."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    found = loss(*leaves)
    *rows, temperature = torch.autograd.grad(found, leaves)
    return [found.detach(), torch.cat(rows), temperature]


def check(name: str, dtype: str, *inputs: Tensor) -> None:
    """Relative errors against float64."""
    found = evaluated(LOSSES[name], *inputs)
    with patch.dict(os.environ, HEX_SSL_BACKEND="composite"):
        expected = evaluated(LOSSES[name], *(each.double() for each in inputs))
    errors = [((ours - theirs).norm() / theirs.norm()).item() for ours, theirs in zip(found, expected, strict=True)]
    of_loss, _, of_gradient = TOLERANCES[DTYPES[dtype]]
    agrees = all(error <= most for error, most in zip(errors, (of_loss, of_gradient, of_gradient), strict=True))
    off = dict(zip(("loss", "gradient", "temperature"), errors, strict=True))
    emit("loss", name=name, dtype=dtype, rows=2 * len(inputs[0]), agrees=agrees, errors=off)


def measure(name: str, dtype: str, *inputs: Tensor) -> None:
    """Time and memory of a step."""
    loss, seconds = LOSSES[name], 0.4 if left() > 20 else 0.1
    run = partial(step, loss, *inputs)
    times = {"eager_ms": milliseconds(run, seconds), "graph_ms": milliseconds(captured(loss, *inputs), seconds)}
    for each in inputs:
        each.grad = None
    emit("loss time", name=name, dtype=dtype, rows=2 * len(inputs[0]), **times, bytes=peak_bytes(run))


def main(sizes: list[int]) -> None:
    """Every loss at all sizes, as long as time lasts."""
    for rows in sizes:
        for dtype in ("bfloat16", "float32"):
            for name in LOSSES:
                if left() < 4:
                    emit("note", text=f"{name}, {dtype} at {rows} rows: no time left")
                    continue
                inputs = (*views(rows, dtype), torch.tensor(TEMPERATURE, device=DEVICE, requires_grad=True))
                check(name, dtype, *inputs)
                if name in TIMED:
                    measure(name, dtype, *inputs)
                clear()


if __name__ == "__main__":
    main([64] if REHEARSAL else [int(each) for each in sys.argv[1:]])
