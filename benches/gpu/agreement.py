"""Step: `python -m gpu.agreement DTYPE ROWS...`: the kernels against float64, and against themselves.

Loss, threshold and gradient against torch's operations in float64 on the same rows, within the tolerances of
`tests/gpu`. Memory is filled with NaN before it is handed out, so that what was not written is seen. Five runs must
give the same bits.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from gpu.records import REHEARSAL, emit, left
from gpu.workload import DEVICE, DTYPES, clear, precision, views
from tests.gpu.on_device import TOLERANCES, Step, step

RUNS = 5


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory of `torch.empty` comes filled with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first = torch.empty(64, device=DEVICE)
        if not (first.isnan().all() and first.new_empty(64).isnan().all()):
            raise RuntimeError("expected torch.empty to be filled with NaN, but it is not")
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def reference(rows: Tensor) -> Step:
    """By torch's operations in float64."""
    with patch.dict(os.environ, HEX_SSL_BACKEND="composite"):
        return step(rows.double())


def errors(found: Step, expected: Step) -> dict[str, float]:
    """Relative of the loss, absolute of the threshold, of the gradient's norm, and of its worst row beside the mean."""
    ours, theirs = found.gradient.double(), expected.gradient.double()
    worst = (ours - theirs).norm(dim=1).max() / theirs.norm(dim=1).mean()
    return {
        "loss": (found.loss.double() / expected.loss.double() - 1).abs().item(),
        "threshold": (found.threshold.double() - expected.threshold.double()).abs().item(),
        "gradient": ((ours - theirs).norm() / theirs.norm()).item(),
        "worst_row": worst.item(),
    }


def agrees(found: dict[str, float], dtype: str) -> bool:
    """Whether errors are within the tests' tolerances. NaN is not."""
    # tf32 has bfloat16's range of errors, or less.
    allowed = TOLERANCES[torch.bfloat16 if dtype == "tf32" else DTYPES[dtype]]
    return all(found[name] <= most for name, most in zip(("loss", "threshold", "gradient"), allowed, strict=True))


def check(dtype: str, rows: int, **told: object) -> None:
    """One number of rows."""
    z = torch.cat([each.detach() for each in views(rows, dtype)])
    with precision(dtype), poisoned():
        runs = [step(z) for _ in range(RUNS)]
    off = errors(runs[0], reference(z))
    equal = all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
    emit("agreement", dtype=dtype, rows=rows, agrees=agrees(off, dtype), bits_equal=equal, errors=off, **told)


if __name__ == "__main__":
    dtype, *sizes = sys.argv[1:]
    for rows in [64, 254] if REHEARSAL else map(int, sizes):
        if left() < 4:
            emit("note", text=f"{dtype} at {rows} rows: no time left")
            continue
        check(dtype, rows)
        clear()
